"""Evaluation in several processes: patience with slow ranks."""

import pytest

from .conftest import ROOT, TINY, options


@pytest.mark.slow
def test_ranks_that_finish_apart(demo_data, run_tool, tmp_path):
    """Rank 1 and the metrics take longer than the process group and the watchdog would wait."""
    (tmp_path / "slow.py").write_text(
        "import os, time\n"
        "from mmdet.datasets import CocoDataset\n"
        "test, evaluate = CocoDataset.prepare_test_img, CocoDataset.evaluate\n"
        "def slow_test(self, index):\n"
        "    if os.environ['RANK'] == '1':\n"
        "        time.sleep(4)\n"
        "    return test(self, index)\n"
        "def slow_evaluate(self, *args, **kwargs):\n"
        "    time.sleep(15)\n"
        "    return evaluate(self, *args, **kwargs)\n"
        "CocoDataset.prepare_test_img, CocoDataset.evaluate = slow_test, slow_evaluate\n"
    )
    (tmp_path / "config.py").write_text(
        f"_base_ = {TINY!r}\n"
        "custom_imports = dict(imports=['models_mm', 'slow'], allow_failed_imports=False)\n"
        "dist_params = dict(timeout=10)\n"
        "faults = dict(hang_timeout=10)\n"
    )
    work = tmp_path / "work"
    (tmp_path / "here").mkdir()
    done = run_tool(
        *(ROOT / "dist_train.sh", tmp_path / "config.py", 2, "--work-dir", work),
        *options(demo_data, "runner.max_epochs=1"),
        cwd=tmp_path / "here",
        PYTHONPATH=f"{tmp_path}:{ROOT}",
    )
    assert done.returncode == 0, [line for line in done.stderr.splitlines() if "rror" in line]
    assert "bbox AP50" in done.stderr
    assert not list((tmp_path / "here").iterdir())
    assert not (work / ".eval_hook").exists()
