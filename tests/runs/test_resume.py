"""A run that goes on from the middle of an epoch ends with the bits of one that never stopped."""

import json
import os
import shutil

import pytest
import torch

from models_mm.cli.train import main as train_main
from models_mm.errors import UserError

from .conftest import TINY, checkpoint, differences, options

ITERATIONS = [
    *("runner.type=IterBasedRunner", "runner.max_epochs=None", "runner.max_iters=8"),
    "checkpoint_config.interval=8",
]
EMA = ["custom_hooks.0.type=ExpMomentumEMAHook", "custom_hooks.0.momentum=0.1"]


def train(data, work, *more, arguments=()):
    """A training of two epochs in this process, with an interim checkpoint every 3 iterations."""
    settings = options(data, "checkpoint_config.iterations=3", *more)
    train_main([TINY, "--work-dir", str(work), *arguments, *settings])


@pytest.fixture(scope="module")
def uninterrupted(demo_data, tmp_path_factory):
    work = tmp_path_factory.mktemp("uninterrupted")
    train(demo_data, work, arguments=["--seed", "3"])
    return work


@pytest.mark.parametrize("workers", [0, 2])
def test_mid_epoch(demo_data, uninterrupted, tmp_path, workers):
    """Whatever the number of data workers; the seed is the checkpoint's."""
    interim = sorted(uninterrupted.glob("interim_*.pth"))[0]
    assert checkpoint(uninterrupted, interim.name)["progress"]["inner_iter"] > 0
    shutil.copy(interim, tmp_path)
    train(demo_data, tmp_path, f"data.workers_per_gpu={workers}", arguments=["--auto-resume"])
    assert not differences(checkpoint(uninterrupted), checkpoint(tmp_path))
    assert checkpoint(tmp_path)["meta"]["seed"] == 3


def test_auto_resume_in_the_config(demo_data, uninterrupted, tmp_path):
    shutil.copy(sorted(uninterrupted.glob("interim_*.pth"))[0], tmp_path)
    train(demo_data, tmp_path, "auto_resume=True")
    assert not differences(checkpoint(uninterrupted), checkpoint(tmp_path))


def test_from_the_last_iteration_of_an_epoch(demo_data, uninterrupted, tmp_path):
    """When all is trained, and the epoch's own checkpoint not yet written."""
    train(demo_data, tmp_path, "checkpoint_config.iterations=8", arguments=["--seed", "3"])
    (tmp_path / "parts").mkdir()
    interim = shutil.copy(tmp_path / "interim_8.pth", tmp_path / "parts")
    assert torch.load(interim, weights_only=True)["progress"]["inner_iter"] == 8
    train(demo_data, tmp_path / "parts", arguments=["--auto-resume"])
    assert not differences(checkpoint(uninterrupted), checkpoint(tmp_path / "parts"))


def test_a_step_earlier_is_another_run(demo_data, uninterrupted, tmp_path):
    """The comparison above can fail: forgetting the random states shows in the weights."""
    found = checkpoint(uninterrupted, sorted(uninterrupted.glob("interim_*.pth"))[0].name)
    found["progress"]["random_states"] = []
    torch.save(found, tmp_path / f"interim_{found['meta']['iter']}.pth")
    train(demo_data, tmp_path, arguments=["--auto-resume"])
    assert differences(checkpoint(uninterrupted), checkpoint(tmp_path))


def test_from_the_end_of_an_epoch(demo_data, uninterrupted, tmp_path):
    """The evaluation that was due after the checkpoint is made up for."""
    shutil.copy(uninterrupted / "epoch_1.pth", tmp_path)
    train(demo_data, tmp_path, "evaluation.save_best=bbox_mAP", arguments=["--auto-resume"])
    assert not differences(checkpoint(uninterrupted), checkpoint(tmp_path))
    best = checkpoint(tmp_path)["meta"]["hook_msgs"]
    assert "best_score" in best  # epoch 2's own comes after epoch 2's checkpoint


def test_an_evaluation_before_the_run_changes_nothing(demo_data, uninterrupted, tmp_path):
    """mmcv trains the first epoch in the mode of the evaluation then, norms and drop path off."""
    train(demo_data, tmp_path, "evaluation.start=0", arguments=["--seed", "3"])
    assert not differences(checkpoint(uninterrupted), checkpoint(tmp_path))


def test_an_evaluation_before_the_run_is_not_one_in_its_middle(demo_data, uninterrupted, tmp_path):
    """``start`` asks for one before the first epoch that it counts: not again after a resume, with
    the number of an epoch that has not been trained yet."""
    shutil.copy(uninterrupted / "epoch_1.pth", tmp_path)
    train(demo_data, tmp_path, "evaluation.start=1", arguments=["--auto-resume"])
    (log,) = tmp_path.glob("*.log.json")
    records = [json.loads(line) for line in log.read_text().splitlines()]
    evaluated = [record for record in records if "bbox_mAP" in record]
    assert [(record["mode"], record["epoch"]) for record in evaluated] == [("val", 1), ("val", 2)]
    assert not differences(checkpoint(uninterrupted), checkpoint(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        ITERATIONS,
        [*ITERATIONS, *EMA],
        [*EMA, "runner.max_epochs=2"],
        [
            "optimizer_config.type=GradientCumulativeOptimizerHook",
            "optimizer_config.cumulative_iters=2",
        ],
        ["optimizer.fused=True"],
    ],
    ids=["iterations", "iterations-ema", "ema", "accumulation", "fused"],
)
def test_other_kinds_of_runs(demo_data, tmp_path, more):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(demo_data, whole, *more, arguments=["--seed", "1", "--no-validate"])
    parts.mkdir()
    shutil.copy(sorted(whole.glob("interim_*.pth"))[0], parts)
    train(demo_data, parts, *more, arguments=["--auto-resume", "--no-validate"])
    assert not differences(checkpoint(whole), checkpoint(parts))


@pytest.mark.slow
def test_runs_by_iterations_store_the_average(demo_data, tmp_path):
    """With the smallest of momenta it stays where the weights began, however they are trained."""
    found = []
    for name, more in (
        ("begun", ["optimizer.lr=0.0"]),
        ("average", ["custom_hooks.0.type=EMAHook", "custom_hooks.0.momentum=1e-12"]),
        ("trained", []),
    ):
        train(
            demo_data,
            tmp_path / name,
            *ITERATIONS[:2],
            *("runner.max_iters=4", "checkpoint_config.interval=4", *more),
            arguments=["--seed", "1", "--no-validate"],
        )
        found.append(checkpoint(tmp_path / name, "iter_4.pth")["state_dict"])
    begun, average, trained = found
    parameters = [name for name in begun if name.endswith(("weight", "bias"))]
    assert all(torch.allclose(average[name], begun[name], atol=1e-7) for name in parameters)
    assert any(not torch.allclose(average[name], trained[name]) for name in parameters)
    raw = average[f"ema_{parameters[0].replace('.', '_')}"]
    assert torch.equal(raw, trained[parameters[0]])  # what the run goes on with


@pytest.mark.parametrize(
    "of_old", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["ours", "without-a-run"]
)
def test_the_same_command_goes_on(demo_data, uninterrupted, tmp_path, monkeypatch, of_old):
    """A job with --resume-from that is started again after a fault keeps what it has trained."""
    first = checkpoint(uninterrupted, "epoch_1.pth")
    if of_old:
        first["meta"] = {k: v for k, v in first["meta"].items() if k not in ("run", "written")}
    torch.save(first, tmp_path / "first.pth")
    work, arguments = tmp_path / "work", ["--resume-from", str(tmp_path / "first.pth")]
    train(demo_data, work, arguments=arguments)
    for name in ("epoch_2.pth", "latest.pth"):  # as if it had ended before
        (work / name).unlink()
    newest = max(work.glob("interim_*.pth"), key=lambda path: int(path.stem[8:]))
    written = newest.stat().st_mtime_ns
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    (tmp_path / "link").symlink_to(tmp_path)
    again = ["--resume-from", os.path.relpath(tmp_path / "link/first.pth")]
    train(demo_data, work, arguments=again)
    assert newest.stat().st_mtime_ns == written  # it was gone on from, not written again
    assert not list(work.glob("previous_*"))
    assert not differences(checkpoint(uninterrupted), checkpoint(work))
    # another one that is asked for is another beginning
    train(demo_data, work, arguments=["--resume-from", str(uninterrupted / "epoch_1.pth")])
    assert list(work.glob("previous_*"))


def test_weights_alone_cannot_be_resumed(demo_data, uninterrupted, tmp_path):
    weights = tmp_path / "weights.pth"
    torch.save({"state_dict": checkpoint(uninterrupted)["state_dict"], "meta": {}}, weights)
    with pytest.raises(UserError, match="no state of a training to resume.*load_from"):
        train(demo_data, tmp_path, arguments=["--resume-from", str(weights)])
