"""Work dirs that are used, shared, broken: nothing of another run is lost or gone on from."""

import json
import logging
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from threading import Thread

import pytest
import torch

from models_mm.checkpoints import runs
from models_mm.cli import command as cli
from models_mm.cli.train import main as train_main
from models_mm.errors import UserError
from models_mm.mmdet2 import work_dir_lock
from models_mm.mmdet2.config_changes import changes, parse
from models_mm.mmdet2.configs import load_config

from .conftest import TINY, checkpoint, options


@pytest.fixture(autouse=True)
def log_is_seen(monkeypatch):
    """mmcv's logger keeps what it says from pytest."""
    monkeypatch.setattr(logging.getLogger("mmdet"), "propagate", True)


def train(data, work, *more, arguments=("--no-validate",)):
    """A training of two epochs in this process."""
    train_main([TINY, "--work-dir", str(work), *arguments, *options(data, *more)])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.pth"))


@pytest.fixture(scope="module")
def finished(demo_data, tmp_path_factory):
    """A run of two epochs with everything that a run leaves."""
    work = tmp_path_factory.mktemp("finished")
    train(demo_data, work, "evaluation.save_best=bbox_mAP", arguments=["--seed", "3"])
    return work


@pytest.fixture
def used(finished, tmp_path):
    """A copy of it, to be used again."""
    return Path(shutil.copytree(finished, tmp_path / "used", symlinks=True))


def test_a_new_training_leaves_the_older_run_whole(demo_data, finished, used, caplog):
    """It is moved, and neither overwritten, nor pruned, nor gone on from by --auto-resume."""
    shorter = ("runner.max_epochs=1", "checkpoint_config.max_keep_ckpts=1")
    train(demo_data, used, *shorter, arguments=["--no-validate", "--seed", "4"])
    (aside,) = used.glob("previous_*")
    assert names(aside) == names(finished)
    for name in names(finished):
        assert (aside / name).read_bytes() == (finished / name).read_bytes()
    assert f"are in {aside} now" in caplog.text
    assert names(used) == ["epoch_1.pth", "latest.pth"]
    mine = checkpoint(used)["meta"]
    assert mine["seed"] == 4 and mine["run"] != checkpoint(aside)["meta"]["run"]
    before = (used / "epoch_1.pth").read_bytes()
    train(demo_data, used, *shorter, arguments=["--no-validate", "--auto-resume"])
    assert f"going on from {used}/epoch_1.pth" in caplog.text
    assert len(list(used.glob("previous_*"))) == 1
    assert (used / "epoch_1.pth").read_bytes() == before


def test_a_copied_checkpoint_of_another_run_is_not_gone_on_from(finished, tmp_path):
    """Higher numbers do not count, nor do dates: latest.pth does, and then who began last."""
    logger = logging.getLogger("mmdet")
    for name, run, iteration in (("epoch_9.pth", "2026_a", 90), ("epoch_1.pth", "2025_b", 10)):
        content = checkpoint(finished)
        content["meta"] |= {"run": run, "iter": iteration}
        torch.save(content, tmp_path / name)
    assert runs.find_newest(str(tmp_path), logger)[0].endswith("epoch_9.pth")
    (tmp_path / "latest.pth").symlink_to("epoch_1.pth")
    assert runs.find_newest(str(tmp_path), logger)[0].endswith("epoch_1.pth")
    runs.prune(str(tmp_path), 1, "2025_b")
    assert names(tmp_path) == ["epoch_1.pth", "epoch_9.pth", "latest.pth"]
    aside = runs.set_aside(str(tmp_path), "2025_b", (2, 10))
    assert names(aside) == ["epoch_9.pth"]


def test_going_back_is_not_undone_by_higher_numbers(demo_data, used):
    """What the run has written after the checkpoint that it goes on from moves out of the way."""
    begin = ["--no-validate", "--resume-from", str(used / "epoch_1.pth")]
    newer = (used / "epoch_2.pth").read_bytes()
    train(demo_data, used, "runner.max_epochs=1", arguments=[*begin, "--allow-config-changes"])
    (aside,) = used.glob("previous_*")
    assert (aside / "epoch_2.pth").read_bytes() == newer
    assert runs.find_newest(str(used), logging.getLogger("mmdet"))[0].endswith("epoch_1.pth")


def test_what_is_refused_moves_nothing(demo_data, used):
    """The run that is there can still be gone on from."""
    before, weights = names(used), used.with_name("weights.pth")
    torch.save({"state_dict": checkpoint(used)["state_dict"]}, weights)
    with pytest.raises(UserError, match="no state of a training to resume"):
        train(demo_data, used, arguments=["--no-validate", "--resume-from", str(weights)])
    with pytest.raises(UserError, match="unknown metric"):
        train(demo_data, used, "evaluation.metric=boxes", arguments=())
    assert names(used) == before and not list(used.glob("previous_*"))


def test_checkpoints_without_identity_go_on(demo_data, used):
    """Those of earlier versions, in their folder."""
    for path in used.glob("*.pth"):
        if not path.is_symlink():
            content = torch.load(path, weights_only=True)
            content["meta"] = {
                k: v for k, v in content["meta"].items() if k not in ("run", "written")
            }
            torch.save(content, path)
    (used / "epoch_2.pth").unlink()
    train(demo_data, used, arguments=["--no-validate", "--auto-resume"])
    assert {"epoch_1.pth", "epoch_2.pth"} <= set(names(used))
    assert "run" not in checkpoint(used)["meta"] and not list(used.glob("previous_*"))


def test_a_changed_config_is_named_and_stops(demo_data, used, caplog):
    """Model, data, optimizer, schedule and seed; what changes the execution alone does not."""
    (used / "epoch_2.pth").unlink()
    changed = ("optimizer.lr=0.5", "data.samples_per_gpu=2", "model.backbone.drop_path_rate=0.2")
    harmless = ("data.workers_per_gpu=0", "log_config.interval=3", "checkpoint_config.interval=2")
    again = ["--no-validate", "--auto-resume", "--seed", "5"]
    before = {name: (used / name).stat().st_mtime_ns for name in ("epoch_1.pth",)}
    with pytest.raises(UserError) as error:
        train(demo_data, used, *changed, *harmless, "runner.max_epochs=3", arguments=again)
    lines = str(error.value).splitlines()[1:-1]
    assert sorted(line.strip() for line in lines) == [
        "data.samples_per_gpu: 1 -> 2",
        "model.backbone.drop_path_rate: 0.3 -> 0.2",
        "optimizer.lr: 0.001 -> 0.5",
        "runner.max_epochs: 2 -> 3",
        "seed: 3 -> 5",
    ]
    assert "--allow-config-changes" in str(error.value)
    assert before == {name: (used / name).stat().st_mtime_ns for name in before}
    train(demo_data, used, *harmless, arguments=again[:2])
    assert "epoch_2.pth" in names(used)


def test_another_batch_size_keeps_the_place_and_a_sane_estimate(demo_data, used, caplog):
    """By the option; the schedule goes by what is left, not by iterations of another length."""
    (used / "epoch_2.pth").unlink()
    bigger = ("data.samples_per_gpu=4", "checkpoint_config.iterations=4")
    again = ["--no-validate", "--auto-resume", "--allow-config-changes"]
    caplog.clear()
    train(demo_data, used, *bigger, arguments=again)
    assert "data.samples_per_gpu: 1 -> 4" in caplog.text
    assert "1 processes x 1 images have become 1 x 4" in caplog.text
    assert "eta: 0:00:" in caplog.text and "-1 day" not in caplog.text
    (length,) = set(re.findall(r"Epoch \[2\]\[./(\d)\]", caplog.text))
    assert checkpoint(used)["meta"]["iter"] == 2 * int(length)
    # and back, in mid-epoch
    (used / "epoch_2.pth").unlink()
    caplog.clear()
    train(demo_data, used, arguments=again)
    assert "-1 day" not in caplog.text
    assert re.findall(r"Epoch \[2\]\[(\d)/8\]", caplog.text) == ["5", "6", "7", "8"]
    assert checkpoint(used)["meta"]["iter"] == 16


def evaluations(folder: Path) -> list[dict]:
    """What the newest log says of evaluations, but for the time they took."""
    lines = max(folder.glob("*.log.json")).read_text().splitlines()
    found = [json.loads(line) for line in lines if '"mode": "val"' in line]
    return [{k: v for k, v in line.items() if not k.endswith("time")} for line in found]


@pytest.mark.parametrize("kind", ["epochs", "iterations"])
def test_a_repeated_evaluation_is_logged_where_it_belongs(demo_data, tmp_path, caplog, kind):
    """As its first time would have been: text, JSON, and TensorBoard's step."""
    config = tmp_path / "config.py"
    loggers = 'dict(type="TextLoggerHook"), dict(type="TensorboardLoggerHook")'
    more = ["runner.max_epochs=1"]
    if kind == "iterations":
        loggers = loggers.replace(")", ", by_epoch=False)")
        more = [
            *("runner.type=IterBasedRunner", "runner.max_epochs=None", "runner.max_iters=4"),
            *("evaluation.interval=4", "checkpoint_config.interval=4"),
        ]
    config.write_text(f"_base_ = '{TINY}'\nlog_config = dict(interval=1, hooks=[{loggers}])\n")
    whole, again = tmp_path / "whole", tmp_path / "again"
    settings = options(demo_data, *more)
    train_main([str(config), "--work-dir", str(whole), "--seed", "1", *settings])
    again.mkdir()
    shutil.copy((whole / "latest.pth").resolve(), again)
    train_main([str(config), "--work-dir", str(again), "--auto-resume", *settings])
    assert len(evaluations(whole)) == 1
    assert evaluations(again) == evaluations(whole)
    text = re.findall(r"(?:Epoch|Iter)\(val\) \[.*?\t", caplog.text)
    assert len(text) == 2 and text[0] == text[1]
    assert steps(whole) == steps(again)


def steps(folder: Path) -> list[int]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tf_logs"))
    events.Reload()
    return [event.step for event in events.Scalars("val/bbox_mAP")]


def hold(folder: Path, seconds: float) -> int:
    """Hold a work dir in another process, which says so; its id."""
    reader, writer = os.pipe()
    if child := os.fork():
        os.close(writer)
        assert os.read(reader, 10) == b"held"
        os.close(reader)
        return child
    with work_dir_lock.held(folder):
        os.write(writer, b"held")
        time.sleep(seconds)
    os._exit(0)


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def test_a_second_training_is_refused(demo_data, tmp_path, monkeypatch):
    monkeypatch.setattr(work_dir_lock, "WAIT", 1)
    holder = hold(tmp_path, 100)
    try:
        with pytest.raises(UserError, match=rf"process {holder} on \S+, since .*--work-dir"):
            train(demo_data, tmp_path)
    finally:
        kill(holder)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_killed_training_holds_nobody_up(tmp_path):
    kill(hold(tmp_path, 100))
    begun = time.monotonic()
    with work_dir_lock.held(tmp_path):
        assert time.monotonic() - begun < 2
        # nor do processes that this one forks, such as data workers, hold it
        child = os.fork()
        if child == 0:
            time.sleep(20)
            os._exit(0)
    try:
        os.waitpid(hold(tmp_path, 0), 0)
    finally:
        kill(child)


def test_another_machine_is_heard_where_locks_do_not_reach_it(tmp_path, monkeypatch):
    """Each machine has locks of its own there; what is left is the file that counts."""
    holder = hold(tmp_path, 100)
    monkeypatch.setattr(work_dir_lock, "_machine", lambda: "another one")
    monkeypatch.setattr(work_dir_lock, "_lock", lambda file: True)
    refused = pytest.raises(UserError, match=f"process {holder} on ")
    with refused, work_dir_lock.held(tmp_path):
        pass
    kill(holder)
    begun = time.monotonic()
    with work_dir_lock.held(tmp_path):
        assert time.monotonic() - begun < work_dir_lock.WATCH + 3


@pytest.mark.parametrize("kind", ["link", "second name", "pipe"])
def test_a_planted_lock_changes_no_other_file(tmp_path, kind):
    (target := tmp_path / "target").write_text("precious")
    (work := tmp_path / "work").mkdir()
    if kind == "link":
        (work / ".lock").symlink_to(target)
    elif kind == "pipe":
        os.mkfifo(work / ".lock")
    else:
        os.link(target, work / ".lock")
    with pytest.raises(UserError, match="remove it"), work_dir_lock.held(work):
        pass
    assert target.read_text() == "precious"


def fails(data: Path, work: Path, before=None) -> str:
    """Start a training that ends before its first iteration; its one line, as a user sees it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writer, 2)
        sys.stderr = os.fdopen(2, "w")  # not pytest's
        if before is not None:
            before()
        cli.run(lambda: train(data, work))
        os._exit(0)
    os.close(writer)
    with open(reader) as file:
        said = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 1, said[-2000:]
    assert "Traceback" not in said
    (line,) = re.findall(r"^error: .*", said, re.M)
    return line


def test_a_file_instead_of_a_folder(demo_data, tmp_path):
    (tmp_path / "work").write_text("mine")
    for work in (tmp_path / "work", tmp_path / "work" / "below"):
        assert str(work) in (line := fails(demo_data, work)) and "--work-dir" in line
    assert (tmp_path / "work").read_text() == "mine"


def test_a_work_dir_that_cannot_be_written(demo_data, used):
    """For a user who may only read it, in whatever state it is."""
    content = {path: path.read_bytes() for path in used.iterdir() if path.is_file()}
    for path in (used, *used.parents, *demo_data.parents):
        if path.stat().st_uid == os.getuid() and path != Path("/") and path != Path("/tmp"):
            path.chmod(0o755)
    line = fails(demo_data, used, before=lambda: os.setuid(65534) if os.getuid() == 0 else None)
    assert f"{used}/.lock cannot be written (permission denied)" in line
    assert content == {path: path.read_bytes() for path in content}


def test_folders_with_names_of_checkpoints(demo_data, used):
    for name in ("latest.pth", "epoch_7.pth"):
        (used / "latest.pth").unlink(missing_ok=True)
        (used / name).mkdir()
        assert f"{used / name} is a folder" in fails(demo_data, used)
        (used / name).rmdir()
    assert {"epoch_1.pth", "epoch_2.pth"} <= set(names(used))


ENDLESS = ("runner.max_epochs=5000", "checkpoint_config.iterations=2")


def fails_midway(data: Path, work: Path, act) -> str:
    """Do something to a work dir once its training has written a checkpoint; the error."""

    def wait_and_act():
        while not list(work.glob("interim_*.pth")):
            time.sleep(0.01)
        act()

    Thread(target=wait_and_act, daemon=True).start()
    with pytest.raises(UserError) as error:
        train(data, work, *ENDLESS)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_work_dir_that_is_removed(demo_data, tmp_path):
    work, elsewhere = tmp_path / "work", tmp_path / "elsewhere"
    said = fails_midway(demo_data, work, lambda: work.rename(elsewhere))
    assert f"the work dir {work} does not exist any more" in said
    assert list(elsewhere.glob("interim_*.pth"))


def test_a_folder_that_comes_in_the_way(demo_data, tmp_path):
    """latest.pth becomes a folder while the training runs."""

    def block():
        (tmp_path / "folder" / "file").mkdir(parents=True)
        while True:  # the training may make the link again in between
            (tmp_path / "latest.pth").unlink(missing_ok=True)
            try:
                (tmp_path / "folder").rename(tmp_path / "latest.pth")
                return
            except OSError:
                continue

    said = fails_midway(demo_data, tmp_path, block)
    assert f"{tmp_path}/latest.pth cannot be written (is a directory)" in said
    assert list(tmp_path.glob("interim_*.pth")) and not list(tmp_path.glob(".*.tmp"))


def test_a_config_that_lies_in_the_work_dir_stays(demo_data, tmp_path):
    config = tmp_path / "config.py"
    config.write_text(f"_base_ = '{TINY}'\nrunner = dict(max_epochs=1)\n")
    before = config.read_text()
    arguments = ["--work-dir", str(tmp_path), "--no-validate"]
    train_main([str(config), *arguments, *options(demo_data)])
    assert config.read_text() == before


def test_a_best_checkpoint_elsewhere_is_not_removed(demo_data, finished, tmp_path):
    """Going on in another work dir leaves the first one as it is."""
    before = names(finished)
    source = ["--resume-from", str(finished / "epoch_1.pth")]
    content = checkpoint(finished, "epoch_2.pth")
    assert Path(content["meta"]["hook_msgs"]["last_ckpt"]).parent == finished
    train(demo_data, tmp_path, "evaluation.save_best=bbox_mAP", arguments=source)
    assert names(finished) == before


def test_what_a_config_says_is_read_and_not_executed(tmp_path):
    cfg = load_config(TINY, None)
    settings = parse(cfg.pretty_text)
    assert settings["model"]["backbone"]["arch"]["depths"] == [1, 1, 1, 1]
    assert changes(settings, parse(cfg.pretty_text)) == []
    planted = f"model = __import__('pathlib').Path('{tmp_path}/made').touch()\nrunner = dict(a=1)"
    assert parse(planted)["runner"] == {"a": 1}
    assert not list(tmp_path.iterdir())
    for text in (
        "(" * 100_000,
        "a = " + "-" * 300_000 + "1",
        "a = 1" + "+1" * 300_000,
        "a.b = 1",
        3,
    ):
        assert parse(text) is None
