"""Every fenced command of the docs runs, in order, as a new user would type it, on tiny data."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ("train", "test", "own_data", "own_backbone", "speed")
LINKS = ("tools", "configs", "models_mm", "dist_train.sh", "dist_test.sh")
# the same commands on less data, and for a shorter time
SMALLER = (
    ("--train 1000 --val 100", "--train 8 --val 5 --size 128x96"),
    ("--train 300 --val 60", "--train 12 --val 6 --size 128x96"),
    ("max_epochs=6", "max_epochs=1"),
)


def fences(document: str) -> list[tuple[str, str, str]]:
    """Language, content and the text before of each fenced block, and of README's indented ones."""
    text = (ROOT / document).read_text()
    for old, new in SMALLER:
        text = text.replace(old, new)
    parts = re.split(r"^```(\w*)\n(.*?)^```\n", text, flags=re.M | re.S)
    return [(parts[i + 1], parts[i + 2], parts[i]) for i in range(0, len(parts) - 3, 3)]


def follow(document: str, folder: Path) -> list[str]:
    """Do what a document says; returns what its commands printed."""
    said = []
    environment = {**os.environ, "PYTHON": sys.executable, "MPLBACKEND": "Agg"}
    environment["PATH"] = f"{folder / 'bin'}:{environment['PATH']}"
    environment.pop("PYTHONPATH", None)
    for language, content, before in fences(document):
        saved = re.findall(r"[Ss]ave\s+as\s+`(\w+\.py)`:\s*$", before)
        if saved:
            (folder / saved[0]).write_text(content)
            continue
        if language == "python" and "import" not in content:
            exec(content, {})  # a part of a config: at least Python
            continue
        commands = (
            content.splitlines() if language == "bash" else [f"python -c {shlex.quote(content)}"]
        )
        for command in commands:
            done = subprocess.run(
                command, shell=True, cwd=folder, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{command}\n{done.stdout[-800:]}\n{done.stderr[-2000:]}"
            said.append(done.stdout)
    return said


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A checkout in which a user has followed getting_started.md, quickly."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in LINKS:
        (folder / name).symlink_to(ROOT / name)
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    said = follow("docs/getting_started.md", folder)
    assert "everything is in order" in said[0]
    assert len(list((folder / "work_dirs/first/pictures").glob("*.png"))) == 5
    return folder


@pytest.mark.parametrize("name", DOCS)
def test_following_a_document(checkout, name):
    said = follow(f"docs/{name}.md", checkout)
    assert said
    for written in re.findall(r"--out (\S+\.png)", (ROOT / f"docs/{name}.md").read_text()):
        assert cv2.imread(str(checkout / written)).std() > 10


def test_every_document_is_followed_or_has_nothing_to_run():
    for file in (ROOT / "docs").glob("*.md"):
        if file.stem not in (*DOCS, "getting_started"):
            assert not fences(f"docs/{file.name}"), file


def test_commands_in_prose_and_readme_exist(run_tool):
    """Tools and their options; `bash` scripts; links between documents."""
    helps = {}
    for file in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        text = file.read_text()
        for link in re.findall(r"\]\(([\w/]+\.md|configs/[\w/]+\.py)\)", text):
            assert (file.parent / link).is_file(), f"{file.name}: {link}"
        for script in re.findall(r"bash ((?:\w+/)*\w+\.sh)", text):
            assert (ROOT / script).is_file(), f"{file.name}: {script}"
        for tool, rest in re.findall(r"python (tools/\w+\.py)([^`\n]*)", text):
            if tool not in helps:
                done = run_tool(ROOT / tool, "--help")
                helps[tool] = done.stdout
                if "rewrite" in done.stdout:
                    helps[tool] += run_tool(ROOT / tool, "rewrite", "--help").stdout
            for option in re.findall(r"(?<=\s)--[a-z][\w-]*", rest):
                assert option in helps[tool], f"{file.name}: {tool} has no {option}"
