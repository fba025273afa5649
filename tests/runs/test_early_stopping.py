"""Runs that end early: by epochs and by iterations, in several processes, and after a resume."""

import models_mm  # noqa: F401  isort: skip
import json
import logging
import math
import shutil
from types import SimpleNamespace

import pytest

from models_mm.cli import train as training
from models_mm.errors import UserError
from models_mm.mmdet2.early_stopping import EarlyStopping

from .conftest import ROOT, TINY, checkpoint, differences, options

# no AP exceeds another one by more than this
NEVER = ("early_stopping.patience=2", "early_stopping.min_delta=2.0")
BEST = "evaluation.save_best=bbox_mAP"


def stopped_after(values: list, **settings) -> int | None:
    """The number of evaluations after which a run with these values ends."""
    stopping = EarlyStopping(monitor="x", **settings)
    runner = SimpleNamespace(meta={}, by_epoch=True, logger=logging.getLogger("test"))
    runner._max_epochs = len(values) + 1
    for number, value in enumerate(values, 1):
        runner.epoch, runner.iter = number - 1, 10 * number
        stopping.after_evaluation(runner, {} if value is None else {"x": value})
        if runner._max_epochs == number:
            return number
    return None


@pytest.mark.parametrize(
    ("values", "settings", "expected"),
    [
        ([0.1, 0.2, 0.3, 0.4], dict(patience=1), None),
        ([0.1, 0.1, 0.1, 0.1], dict(patience=2), 3),
        ([0.3, 0.2, 0.4, 0.3, 0.2], dict(patience=2), 5),  # the count begins anew
        ([0.1, 0.15, 0.2, 0.25], dict(patience=2, min_delta=0.1), 3),  # by exactly so much: no
        ([0.1, 0.15, 0.3, 0.35, 0.38, 0.45], dict(patience=2, min_delta=0.1), 5),
        ([3.0, 2.0, 1.0, 1.5, 1.0], dict(patience=2, mode="min"), 5),
        ([3.0, 2.5, 2.0], dict(patience=2, mode="min", min_delta=1.0), 3),
        ([None, None, 0.1, 0.1], dict(patience=3), None),  # nothing is found at first
        ([0.1, math.nan, 0.2], dict(patience=5), 2),
        ([0.1, math.inf], dict(patience=5), 2),
    ],
)
def test_when_a_run_ends(values, settings, expected):
    assert stopped_after(values, **settings) == expected


def run(work, data, *more: str, flags=()) -> None:
    settings = options(data, "data.workers_per_gpu=0", *more)
    training.main([TINY, "--work-dir", str(work), "--seed", "1", *flags, *settings])


def evaluations(work) -> list[int]:
    """The epochs that were evaluated, in the order of the logs."""
    lines = [line for log in sorted(work.glob("*.log.json")) for line in log.open()]
    records = [json.loads(line) for line in lines]
    return [record["epoch"] for record in records if record.get("mode") == "val"]


def test_epochs_and_a_resume(demo_data, tmp_path):
    """A run that goes on from the middle ends where the other one has, with the same weights."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    settings = ("runner.max_epochs=8", "ema.momentum=0.1", *NEVER, BEST)
    run(whole, demo_data, *settings)
    assert evaluations(whole) == [1, 2, 3] and not (whole / "epoch_4.pth").exists()

    shutil.copytree(whole, parts)
    for name in ("epoch_3.pth", "latest.pth"):
        (parts / name).unlink()
    (parts / "latest.pth").symlink_to("epoch_2.pth")
    run(parts, demo_data, *settings, flags=("--auto-resume",))
    assert evaluations(parts) == [1, 2, 3, 2, 3]  # that of epoch 2 was not in its checkpoint
    one, other = checkpoint(whole), checkpoint(parts)
    assert differences(one, other) == []
    state = one["meta"]["hook_msgs"]["early_stopping"]
    assert state == other["meta"]["hook_msgs"]["early_stopping"] and state["waited"] == 1
    assert (whole / "results.json").read_text() == (parts / "results.json").read_text()

    run(parts, demo_data, *settings, flags=("--auto-resume",))  # it is over, and stays so
    assert not (parts / "epoch_4.pth").exists()


def test_iterations(demo_data, tmp_path):
    """The last weights are written, whatever the interval of checkpoints is."""
    loop = ("runner.type=IterBasedRunner", "runner.max_epochs=None", "runner.max_iters=20")
    settings = (*loop, "evaluation.interval=2", *NEVER, "checkpoint_config.interval=100")
    run(tmp_path, demo_data, *settings)
    assert len(evaluations(tmp_path)) == 3
    assert checkpoint(tmp_path)["meta"]["iter"] == 6
    before = checkpoint(tmp_path)
    run(tmp_path, demo_data, *settings, flags=("--auto-resume",))
    assert differences(before, checkpoint(tmp_path)) == []


@pytest.mark.slow
def test_two_processes(demo_data, run_tool, tmp_path):
    done = run_tool(
        *(ROOT / "dist_train.sh", TINY, 2, "--work-dir", tmp_path),
        *options(demo_data, "runner.max_epochs=8", *NEVER, BEST),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert evaluations(tmp_path) == [1, 2, 3]
    assert done.stderr.count("early stopping: bbox_mAP not better for 2 evaluations") == 1
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["last"]["checkpoint"] == "epoch_3.pth" and found["last"]["epoch"] == 3


def test_it_needs_evaluations(demo_data, tmp_path):
    with pytest.raises(UserError, match="early_stopping needs evaluations: leave --no-validate"):
        run(tmp_path, demo_data, "runner.max_epochs=8", *NEVER, flags=("--no-validate",))


def test_a_value_that_there_is_not(demo_data, tmp_path):
    message = "early_stopping.monitor segm_mAP: this evaluation gives bbox_mAP, "
    with pytest.raises(UserError, match=message):
        more = "early_stopping.monitor=segm_mAP"
        run(tmp_path, demo_data, "runner.max_epochs=8", *NEVER, more)


def test_a_changed_patience_is_a_changed_run(demo_data, tmp_path):
    run(tmp_path, demo_data, "runner.max_epochs=8", *NEVER)
    with pytest.raises(UserError, match="early_stopping.patience: 2 -> 5"):
        more = (*NEVER, "early_stopping.patience=5")
        run(tmp_path, demo_data, "runner.max_epochs=8", *more, flags=("--auto-resume",))
