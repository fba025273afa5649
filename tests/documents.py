"""README.md and docs/: their fenced commands, made smaller, and following them as a user would."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEMO = "configs/demo/mask_rcnn_recnext_tiny_fpn_demo.py"
# the same commands on less data, and for a shorter time
SMALLER = {
    r"recnext_m3 --data photos": "recnext_tiny --data data/demo --epochs 1 --size 96",
    r"(recnext_tiny --data data/few .*) --size 320": r"\1 --size 96 --epochs 1",
    r"make_demo_coco.py data/few": "make_demo_coco.py data/few --size 128x96",
    r"predict.py new_photos": "predict.py data/demo/val2017",
    r"--train 1000 --val 100": "--train 8 --val 5 --size 128x96",
    r"--train 300 --val 60": "--train 12 --val 6 --size 128x96",
    r"max_epochs=6": "max_epochs=1",
    r"--shape 512 512": "--shape 64 64 --rounds 3 --no-memory",
    # two processes instead of eight, small images
    r"(dist_train.sh configs/\S+) 8": r"\1 2 --cfg-options runner.max_epochs=1 "
    "'data.train.pipeline.2.img_scale=(128,96)' 'data.val.pipeline.1.img_scale=(128,96)'",
    r"(dist_test.sh +configs/\S+ \S+) 8(.*)": r"\1 2\2 --cfg-options "
    "'data.test.pipeline.1.img_scale=(128,96)'",
}
# what README.md and the pages beside it leave to their reader
CHOICES = {
    r"MASTER_ADDR=10.0.0.1": "MASTER_ADDR=127.0.0.1",
    r"^make (install|demo)": r"make -o .venv/.installed \1",
    r"CONFIG 8": "CONFIG 1 --cfg-options runner.max_epochs=1",
    r"\[options\]": "--cfg-options runner.max_epochs=1",
    r"\bCONFIG\b": DEMO,
    r"\bCHECKPOINT\b": "work_dirs/demo/latest.pth",
    r"\bFOLDER\b": "data/demo/val2017",
    r"\bGPUS=\d+": "GPUS=2",
    r"\bGPUS\b(?!=)": "2",
}


def fences(document: str, replacements: dict[str, str] = SMALLER) -> list[tuple[str, str, str]]:
    """Language, content and the text before of each fenced block of a document."""
    parts = re.split(r"^```(\w+)\n(.*?)^```\n", (ROOT / document).read_text(), flags=re.M | re.S)
    blocks = []
    for before, language, content in zip(parts[::3], parts[1::3], parts[2::3], strict=False):
        for old, new in replacements.items():
            content = re.sub(old, new, content, flags=re.M)
        blocks.append((language, content, before))
    return blocks


def commands(blocks: list[tuple[str, str, str]], folder: Path) -> list[str]:
    """What a reader types for these blocks, after saving what is to be saved."""
    typed = []
    for language, content, before in blocks:
        saved = re.findall(r"[Ss]ave\s+as\s+`(\w+\.py)`:\s*$", before)
        if saved:
            (folder / saved[0]).write_text(content)
        elif language == "python":
            typed.append(f"python -c {shlex.quote(content)}")
        elif language == "bash":
            typed += content.splitlines()
        else:
            assert language == "text", f"what is {language}?"
    return typed


def follow(typed: list[str], folder: Path, **environment: str) -> list[str]:
    """Type commands in a folder, with its environment active; returns what each has printed."""
    (folder / "bin").mkdir(exist_ok=True)
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    console = folder / "bin" / "models_mm"
    console.write_text('#!/bin/sh\nexec python -m models_mm "$@"\n')
    console.chmod(0o755)
    environment = {**os.environ, "PYTHON": sys.executable, "MPLBACKEND": "Agg", **environment}
    environment["PATH"] = f"{folder / 'bin'}:{environment['PATH']}"
    environment.pop("PYTHONPATH", None)
    jobs, said = [], []
    for command in typed:
        with open(folder / f"said_{len(jobs)}.txt", "w") as log:
            job = subprocess.Popen(
                ["bash", "-c", command],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        jobs.append(job)
        if "NODE_RANK=0" not in command:  # the next command is the other node
            job.wait(timeout=600)
    for number, (command, job) in enumerate(zip(typed, jobs, strict=True)):
        printed = (folder / f"said_{number}.txt").read_text()
        assert job.wait(timeout=60) == 0, f"{command}\n{printed[-3000:]}"
        said.append(printed)
    return said
