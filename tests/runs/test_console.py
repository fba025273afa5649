"""What a training shows: in a pipe, on a terminal, with ``--verbose``, and in its files."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from models_mm.version import __version__

from .conftest import ROOT, TINY, options

LOSSES = r"loss \d+\.\d{3} \(cls [\d.]+ bbox [\d.]+\)"
PROGRESS = rf"eta \d\d:\d\d  [\d.]+ images/s  lr [\d.e-]+  [\d.]+ GB  {LOSSES}"
ROW = r"(?:  +\d\.\d{3}|  +-)+(?:  best)?|  no objects were found"


def command(script: str, data, work, *more) -> list:
    """A training of two epochs with evaluations."""
    settings = options(data, "runner.max_epochs=2", "evaluation.save_best=bbox_mAP")
    return [ROOT / script, TINY, *more, "--work-dir", work, *settings]


@pytest.mark.slow
def test_in_a_pipe(demo_data, run_tool, tmp_path):
    """Of several processes one speaks, in lines; the files have the whole log."""
    done = run_tool(*command("dist_train.sh", demo_data, tmp_path, 2))
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stderr.splitlines()
    assert lines[0] == f"models_mm {__version__}: {TINY}"
    first = next(n for n, line in enumerate(lines) if line.startswith("epoch 1/2 1/"))
    assert first < 25
    steps = int(lines[first].split("/")[2].split()[0])
    places = [f"epoch {epoch}/2 {n + 1}/{steps}" for epoch in (1, 2) for n in range(steps)]
    for place in places:
        (line,) = [line for line in lines if line.startswith(f"{place} ")]
        assert re.fullmatch(f"{place}  {PROGRESS}", line)
    for epoch in (1, 2):
        assert [re.fullmatch(f" {{6}}{epoch}({ROW})", line) is None for line in lines].count(0) == 1
    (result,) = [line for line in lines if line.startswith("last: ")]
    assert f"{tmp_path}/epoch_2.pth" in result
    assert not re.search("Environment|Config|INFO|Traceback", done.stderr)

    (log,) = tmp_path.glob("*.log")
    for part in ("Environment:", "Config:", f"Epoch [2][{steps}/{steps}]", "Epoch(val) [2]"):
        assert part in log.read_text()
    records = [json.loads(line) for line in log.with_suffix(".log.json").open()]
    modes = [record.get("mode") for record in records[1:]]
    assert modes == 2 * (steps * ["train"] + ["val"])


@pytest.mark.slow
def test_verbose(demo_data, run_tool, tmp_path):
    done = run_tool(*command("tools/train.py", demo_data, tmp_path, "--verbose"))
    assert done.returncode == 0, done.stderr[-3000:]
    (log,) = tmp_path.glob("*.log")
    assert set(log.read_text().splitlines()) <= set(done.stderr.splitlines())
    assert "epoch 1/2" not in done.stderr


def drawn(text: str) -> list[str]:
    """The lines that a terminal has in the end."""
    lines, row, column = [""], 0, 0
    for part in re.split(r"(\r|\n|\x1b\[A)", text):
        if part == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif part == "\x1b[A":
            row -= 1
        elif part == "\r":
            column = 0
        else:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + part + line[column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines]


@pytest.mark.slow
def test_on_a_terminal(demo_data, tmp_path):
    """A bar, which is gone at the end; the table stays."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 40, 150, 0, 0))
    words = [str(word) for word in command("tools/train.py", demo_data, tmp_path)]
    job = subprocess.Popen([sys.executable, *words], stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:  # how Linux says that the other side is closed
        pass
    assert job.wait(timeout=30) == 0, shown[-3000:]
    text = shown.decode()
    assert re.search(rf"\r\|.{{10}}\| epoch 2/2 \d+/\d+  {PROGRESS}", text)
    lines = drawn(text)
    assert not any("|" in line for line in lines)
    assert [line.split()[0] for line in lines if re.fullmatch(rf" {{6}}\d({ROW})", line)] == [
        "1",
        "2",
    ]
