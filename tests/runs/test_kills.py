"""SIGKILL at any moment, files cut off anywhere: the run goes on, and ends with the same bits."""

import logging
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch

from models_mm.checkpoints.runs import find_newest
from models_mm.cli import train

from .conftest import ROOT, TINY, checkpoint, differences, options

JOB = Path(__file__).with_name("kills_job.py")


@pytest.mark.slow
def test_kills_leave_no_trace(demo_data, run_tool, tmp_path):
    """Two processes with data workers; tests/soak/kills.py does more of it, and of other kinds."""
    more = options(demo_data, "checkpoint_config.iterations=1", "runner.max_epochs=10")
    arguments = [TINY, "--no-validate", "--seed", "0"]
    whole = run_tool(JOB, tmp_path / "whole", 0, 0, "fork", *arguments, *more)
    assert whole.returncode == 0, whole.stdout[-3000:] + whole.stderr[-3000:]
    killed = run_tool(JOB, tmp_path / "killed", 3, 0, "fork", *arguments, "--auto-resume", *more)
    assert killed.returncode == 0, killed.stdout[-3000:] + killed.stderr[-3000:]
    assert "wrong:" not in killed.stdout and killed.stdout.count("killed ") == 3
    assert not differences(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "killed"))
    assert not list((tmp_path / "killed").glob(".*.tmp"))


@pytest.fixture(autouse=True)
def log_is_seen(monkeypatch):
    """mmcv's logger keeps what it says from pytest."""
    monkeypatch.setattr(logging.getLogger("mmdet"), "propagate", True)


@pytest.fixture(scope="module")
def finished(demo_data, tmp_path_factory):
    """A run's folder: epoch_1, epoch_2 and interim checkpoints."""
    work = tmp_path_factory.mktemp("finished")
    more = options(demo_data, "checkpoint_config.iterations=3")
    train.main([TINY, "--work-dir", str(work), "--no-validate", "--seed", "3", *more])
    return work


def test_a_file_cut_off_anywhere_is_left_aside(finished, tmp_path, caplog):
    """At fifty offsets, those of a kill or a full disk in each part of the file among them."""
    content = (finished / "epoch_2.pth").read_bytes()
    shutil.copy(finished / "epoch_1.pth", tmp_path)
    (tmp_path / "latest.pth").symlink_to("epoch_2.pth")
    step = len(content) // 40
    ends = range(len(content) - 1, len(content) - 2000, -199)  # the archive's directory
    for size in {0, 1, 2, 100, *range(0, len(content), step), *ends}:
        (tmp_path / "epoch_2.pth").write_bytes(content[:size])
        caplog.clear()
        path, meta = find_newest(str(tmp_path), logging.getLogger("mmdet"))
        assert path == str(tmp_path / "epoch_1.pth") and meta["epoch"] == 1
        assert f"epoch_2.pth is damaged and left aside ({size:,} bytes" in caplog.text


def test_a_flipped_bit_is_noticed(finished, tmp_path):
    content = bytearray((finished / "epoch_2.pth").read_bytes())
    shutil.copy(finished / "epoch_1.pth", tmp_path)
    weight = checkpoint(finished, "epoch_2.pth")["state_dict"]["bbox_head.retina_cls.bias"]
    content[content.index(weight.numpy().tobytes()) + 7] ^= 1
    (tmp_path / "epoch_2.pth").write_bytes(content)
    assert find_newest(str(tmp_path), logging.getLogger("mmdet"))[0].endswith("epoch_1.pth")


def test_a_truncated_newest_file_costs_nothing_but_time(demo_data, finished, tmp_path):
    """The run goes on from the one before it, and ends the same."""
    shutil.copy(finished / "epoch_1.pth", tmp_path)
    newest = max(finished.glob("interim_*.pth"), key=lambda file: int(file.stem.split("_")[1]))
    (tmp_path / newest.name).write_bytes(newest.read_bytes()[:300_000])
    (tmp_path / "latest.pth").touch()  # empty, as mmdet would take it
    torch.save({"state_dict": {}}, tmp_path / "mine.pth")  # nor this
    torch.save({"state_dict": {}}, tmp_path / "best_bbox_mAP_epoch_1.pth")
    more = options(demo_data, "checkpoint_config.iterations=3")
    train.main([TINY, "--work-dir", str(tmp_path), "--no-validate", "--auto-resume", *more])
    assert not differences(checkpoint(finished), checkpoint(tmp_path))


def test_nothing_whole_starts_from_the_beginning(demo_data, finished, tmp_path, caplog):
    (tmp_path / "epoch_1.pth").write_bytes((finished / "epoch_1.pth").read_bytes()[:1000])
    more = options(demo_data, "checkpoint_config.iterations=3")
    arguments = ["--no-validate", "--auto-resume", "--seed", "3"]
    train.main([TINY, "--work-dir", str(tmp_path), *arguments, *more])
    assert "has no whole checkpoint; from the beginning" in caplog.text
    assert not differences(checkpoint(finished), checkpoint(tmp_path))


def test_old_checkpoints_are_pruned(demo_data, tmp_path):
    more = options(
        demo_data,
        *("runner.max_epochs=4", "checkpoint_config.max_keep_ckpts=2"),
        "checkpoint_config.minutes=0.0",
    )
    train.main([TINY, "--work-dir", str(tmp_path), "--no-validate", *more])
    names = sorted(file.name for file in tmp_path.glob("*.pth"))
    assert names[:2] == ["epoch_3.pth", "epoch_4.pth"] and names[-1] == "latest.pth"
    assert [name.split("_")[0] for name in names[2:-1]] == ["interim", "interim"]
    assert (tmp_path / "latest.pth").resolve().name == "epoch_4.pth"


@pytest.mark.slow
def test_a_full_disk_is_said_and_spoils_nothing(demo_data, finished, run_tool, tmp_path):
    """The limit on the size of files stands for the disk; it leaves room for the log."""
    shutil.copy(finished / "epoch_1.pth", tmp_path)
    train = ["--work-dir", tmp_path, "--no-validate", "--auto-resume", *options(demo_data)]
    command = [sys.executable, ROOT / "tools/train.py", TINY, *train]
    line = " ".join(shlex.quote(str(word)) for word in command)
    done = run_tool("bash", "-c", f"ulimit -f 200; exec {line}")
    assert done.returncode == 1
    assert re.search(
        r"^error: \S+/epoch_2.pth cannot be written: file too large", done.stderr, re.M
    )
    assert "make room and repeat the command; a training goes on" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(file.name for file in tmp_path.glob("*.pth")) == ["epoch_1.pth"]
    assert not list(tmp_path.glob(".*.tmp"))
    done = run_tool(*command)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert not differences(checkpoint(finished), checkpoint(tmp_path))
