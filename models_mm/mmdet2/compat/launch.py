"""``init_dist`` on machines without a GPU, and with the ranks that torchrun and Slurm give.

mmcv 1.7 divides by the number of GPUs (ZeroDivisionError on a CPU machine), takes the backend
NCCL for granted, guesses the local rank from the global one and lets several processes share a
GPU silently when there are too few.
"""

import os
import subprocess

import mmcv.runner.dist_utils as dist_utils
import torch
import torch.distributed as dist

from models_mm.errors import UserError


def select_device(local_rank: int, processes: int, backend: str) -> str:
    """Bind this process to its GPU; without any GPU choose gloo on the CPU.

    Args:
        local_rank: index of this process on its machine.
        processes: number of processes of the job on this machine.
        backend: the backend the config asks for.

    Returns:
        The backend to use.

    Raises:
        UserError: there are GPUs, but fewer than processes.
    """
    gpus = torch.cuda.device_count()
    if gpus == 0:
        return "gloo"
    if gpus == 1 and one_gpu_per_task(processes):
        torch.cuda.set_device(0)
        return backend
    if processes > gpus:
        raise UserError(
            f"{processes} processes were asked for on this machine, which has {gpus} GPU(s): "
            f"ask for at most {gpus}, or hide the GPUs (CUDA_VISIBLE_DEVICES=) to run on the CPU"
        )
    torch.cuda.set_device(local_rank)
    return backend


def one_gpu_per_task(tasks: int) -> bool:
    """Whether Slurm gives each task of this machine a GPU of its own, and hides the others.

    It does so with ``--gpus-per-task=1``, and with ``--gpu-bind``. The processes that torchrun
    starts in a task share what the task has.
    """
    environ = os.environ
    if "SLURM_PROCID" not in environ or "TORCHELASTIC_RUN_ID" in environ:
        return False
    on_node = environ.get("SLURM_GPUS_ON_NODE", "")
    return environ.get("SLURM_GPUS_PER_TASK", "").endswith("1") or (
        on_node.isdecimal() and int(on_node) >= tasks
    )


def check_variables(launcher: str, start: str, *names: str) -> None:
    """Refuse to join a job that nobody has started.

    Raises:
        UserError: a variable that the launcher sets is missing, or is no number.
    """
    for name in names:
        value = os.environ.get(name, "")
        if not (value.isascii() and value.isdecimal()):
            raise UserError(
                f"--launcher {launcher} needs {name} in the environment as a number, not "
                f"{value!r}: start it by {start}"
            )


def init_pytorch(backend: str, **kwargs) -> None:
    """Join a job started by torchrun, which describes it in the environment."""
    check_variables("pytorch", "dist_train.sh or torchrun", "RANK", "WORLD_SIZE", "MASTER_PORT")
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", local_rank + 1))
    dist.init_process_group(select_device(local_rank, processes, backend), **kwargs)


def init_slurm(backend: str, port: int | None = None, **kwargs) -> None:
    """Join a job started by srun: translate Slurm's variables into torch's.

    ``MASTER_ADDR`` and ``MASTER_PORT`` win when set; else the first host of the job, and a port
    derived from the job id, so that two jobs on one host do not meet.
    """
    check_variables("slurm", "srun, as slurm_train.sh does", "SLURM_NTASKS", "SLURM_PROCID")
    environ = os.environ
    tasks = int(environ["SLURM_NTASKS"])
    local_rank = int(environ.get("SLURM_LOCALID", 0))
    per_node = int(environ.get("SLURM_NTASKS_PER_NODE", local_rank + 1))
    environ["RANK"] = environ["SLURM_PROCID"]
    environ["WORLD_SIZE"] = str(tasks)
    environ["LOCAL_RANK"] = str(local_rank)
    if port is not None:
        environ["MASTER_PORT"] = str(port)
    environ.setdefault("MASTER_PORT", str(20000 + int(environ.get("SLURM_JOB_ID", 0)) % 20000))
    if "MASTER_ADDR" not in environ:
        hosts = ["scontrol", "show", "hostnames", environ["SLURM_NODELIST"]]
        environ["MASTER_ADDR"] = subprocess.check_output(hosts, text=True).split()[0]
    dist.init_process_group(select_device(local_rank, per_node, backend), **kwargs)


def init_mpi(backend: str, **kwargs) -> None:
    """Join a job started by Open MPI's mpirun; ``MASTER_ADDR`` and ``MASTER_PORT`` must be set."""
    start = "mpirun, with MASTER_ADDR and MASTER_PORT set"
    names = (f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"))
    check_variables("mpi", start, *names, "MASTER_PORT")
    environ = os.environ
    environ["RANK"] = environ["OMPI_COMM_WORLD_RANK"]
    environ["WORLD_SIZE"] = environ["OMPI_COMM_WORLD_SIZE"]
    environ["LOCAL_RANK"] = environ["OMPI_COMM_WORLD_LOCAL_RANK"]
    environ["LOCAL_WORLD_SIZE"] = environ["OMPI_COMM_WORLD_LOCAL_SIZE"]
    init_pytorch(backend, **kwargs)


def apply() -> None:
    # init_dist looks them up by name, so every imported copy of it follows
    dist_utils._init_dist_pytorch = init_pytorch
    dist_utils._init_dist_slurm = init_slurm
    dist_utils._init_dist_mpi = init_mpi
