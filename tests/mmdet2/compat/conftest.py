"""What the tests of mmcv's and mmdet's repairs share."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import models_mm  # applies the repairs, before a test module imports mmcv

JOBS = Path(__file__).parent
ROOT = Path(models_mm.__file__).parents[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_job(script: str, *args: str, environments: list[dict]) -> list[str]:
    """Run a script of this folder in several processes at once.

    Args:
        script: file name; it uses ``ranks.run``.
        args: its arguments.
        environments: one dictionary of environment variables a process.

    Returns:
        The lines that they printed, sorted; all must end well.
    """
    # the launcher of an outer job is not this job's
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "OMPI_"))}
    environment |= {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "RANKS": json.dumps(environments),
    }
    command = [sys.executable, str(JOBS / script), *map(str, args)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return sorted(done.stdout.splitlines())


def torchrun_environments(processes: int) -> list[dict]:
    """The variables that torchrun sets, for each process of a job on one machine."""
    port = str(free_port())
    return [
        {
            "RANK": str(rank),
            "WORLD_SIZE": str(processes),
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        for rank in range(processes)
    ]
