"""What a whole iteration of a training in two processes sends and reads."""

import json

import pytest

from .conftest import ROOT, TINY, options

CONFIG = f"""
_base_ = ["{TINY}"]
custom_imports = dict(imports=["models_mm", "tests.mmdet2.counting"], allow_failed_imports=False)
custom_hooks = [dict(type="CountingHook", priority="HIGHEST")]
log_config = dict(interval=100)
optimizer = dict(fused=True)
optimizer_config = dict(_delete_=True, grad_clip=dict(max_norm=1.0))
"""
# 8 images in two processes, for two epochs. DDP orders its gradients in the second iteration, and
# a checkpoint comes after each epoch.
PLAIN = (2, 4, 5, 6)


@pytest.mark.slow
def test_an_iteration(demo_data, run_tool, tmp_path):
    (tmp_path / "config.py").write_text(CONFIG)
    done = run_tool(
        *(ROOT / "dist_train.sh", tmp_path / "config.py", "2", "--work-dir", tmp_path / "run"),
        *("--no-validate", *options(demo_data)),
        **dict(COUNTS=str(tmp_path), PYTHONPATH=str(ROOT)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for rank in range(2):
        found = json.loads((tmp_path / f"rank_{rank}.json").read_text())
        assert len(found) == 8
        for collectives, readings in (found[i] for i in PLAIN):
            # gradients, losses, and whether to stop
            assert collectives == {"c10d::allreduce_": 3}
            # of the heads; on a CPU also the losses, whether to stop, and the gradients' norm
            assert readings.pop("__bool__") <= 10
            assert readings == {"tolist": 2, "__float__": 1}
