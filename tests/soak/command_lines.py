"""Wrong command lines: each ends with a message that says what is wrong, and nothing else happens.

The lines stand in ``wrong_lines.py``. Those of Python tools run in forked children of one process
that has imported everything (``in_children.py``), those of shell scripts by themselves.
"""

import json
import os
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path

from .tally import Tally
from .wrong_lines import GROUPS

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 120  # seconds that a wrong line may take
# what users must never see, wherever it is printed
TRACEBACK = re.compile(r"Traceback \(most recent call last\)|^\s+File \".*\", line \d+", re.M)


def lines() -> list[tuple[dict[str, str], list[str], str]]:
    """All wrong lines: their environment, the words, and what the message must match."""
    found = []
    for beginning, ends in GROUPS.items():
        for end, message in ends:
            words = shlex.split(f"{beginning} {end}")
            assigned = [word for word in words if re.match(r"[A-Z_]+=", word)]
            environment = dict(word.split("=", 1) for word in assigned)
            found.append((environment, [w for w in words if w not in assigned], message))
    return found


def soak(count: int, seed: int, folder: Path) -> Tally:
    """Try ``count`` of the lines (all, if there are no more), drawn by ``seed``."""
    folder = folder.resolve()
    chosen = random.Random(seed).sample(lines(), min(count, len(lines())))
    tasks, inputs = folder / "tasks.json", folder / "inputs"
    tasks.write_text(json.dumps([(env, placed(words, inputs)) for env, words, _ in chosen]))
    command = [sys.executable, "-m", "tests.soak.in_children", str(folder), str(LIMIT)]
    subprocess.run(
        command,
        check=True,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MODELS_MM_TRACEBACK": "0"},
    )
    tally = Tally()
    for number, (environment, words, message) in enumerate(chosen):
        code = int((folder / f"{number}.code").read_text())
        said = (folder / f"{number}.txt").read_text(errors="replace")
        fault = judged(code, said, message)
        line = shlex.join([f"{k}={v}" for k, v in environment.items()] + words)
        if fault:
            tally.fail(f"{line}: {fault}; it said {said[-600:]!r}")
        else:
            tally.count("handled")
    changed = json.loads((folder / "changed.json").read_text())
    if changed:
        tally.fail(f"written outside the folder of the command: {', '.join(changed)}")
    return tally


def placed(words: list[str], inputs: Path) -> list[str]:
    """The words with ``@`` for the folder of the inputs."""
    return [word.replace("@", f"{inputs}/") for word in words]


def judged(code: int, said: str, message: str) -> str | None:
    """What is wrong with the way in which a command ended."""
    if code == -1:
        return f"more than {LIMIT} s"
    if code == 0:
        return "exit code 0"
    if code not in (1, 2):
        return f"exit code {code}"
    if TRACEBACK.search(said):
        return "a traceback"
    if not said.strip():
        return "not a word"
    if not re.search(message, said):
        return f"the message does not match {message!r}"
    return None
