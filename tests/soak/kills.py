"""Trainings in two processes, killed at random until they are over: no bit differs, none is left.

Each training is of a kind drawn at random and compared to one of its kind that was never killed.
What is killed (a rank, the launcher, a data worker, all) and when (while it starts, writes a
checkpoint, evaluates, or at any moment) is drawn by ``tests/runs/kills_job.py``.
"""

import itertools
import random
import re
import subprocess
import sys
from pathlib import Path

from tests.drawn import draw
from tests.runs.conftest import TINY, checkpoint, differences, options

from .tally import Tally

JOB = Path(__file__).parents[1] / "runs" / "kills_job.py"
KILLS_OF_A_RUN = 6
EPOCHS = ("runner.max_epochs=12", "evaluation.interval=2", "checkpoint_config.max_keep_ckpts=2")
ITERATIONS = (
    *("runner.type=IterBasedRunner", "runner.max_epochs=None", "runner.max_iters=48"),
    *("evaluation.interval=8", "checkpoint_config.interval=8"),
)
ACCUMULATED = "optimizer_config.cumulative_iters=3"
LIVING = "data.train_dataloader.persistent_workers=True"
BEST = "evaluation.save_best=bbox_mAP"
KINDS = {
    "epochs": (*EPOCHS, BEST),
    "epochs with EMA, living workers": (*EPOCHS, "ema.momentum=0.1", LIVING),
    "epochs, accumulated, without workers": (*EPOCHS, ACCUMULATED, BEST, "data.workers_per_gpu=0"),
    "iterations": (*ITERATIONS, BEST),
    "iterations with EMA, accumulated": (*ITERATIONS, "ema.momentum=0.1", ACCUMULATED),
    "iterations, living workers": (*ITERATIONS, LIVING, "data.workers_per_gpu=2"),
}
SECONDS = 3600  # for a run with all its kills


def soak(count: int, seed: int, folder: Path) -> Tally:
    """Kill trainings until ``count`` kills are done; a run that was killed ends bit-equal."""
    tally, generator = Tally(), random.Random(seed)
    data = draw(folder / "data", train=8, val=5)
    whole: dict[str, Path] = {}
    for number in itertools.count():
        if tally.counts.get("kills", 0) >= count or len(tally.failures) >= 20:
            return tally
        print(f"kills: {tally}", file=sys.stderr)
        kind = generator.choice(list(KINDS))
        launched = "launcher" if number % 2 else "fork"
        kills = min(KILLS_OF_A_RUN, count - tally.counts.get("kills", 0))
        case = f"seed {seed}, run {number} ({kind}, {launched})"
        if kind not in whole:
            whole[kind] = folder / f"whole{number}"
            said = train(whole[kind], data, kind, 0, case, "fork")
            if "wrong:" in said:
                del whole[kind]
                tally.fail(f"{case}, not killed: {said}")
                print(tally.failures[-1], file=sys.stderr)
                continue
        killed = folder / f"killed{number}"
        said = train(killed, data, kind, kills, case, launched)
        for who, when in re.findall(r"^killed (.*), (.*), after", said, re.M):
            tally.counts["kills"] = tally.counts.get("kills", 0) + 1
            name = f"of {who} {when}"
            tally.counts[name] = tally.counts.get(name, 0) + 1
        wrong = re.findall(r"^wrong: .*(?:\n(?!killed).*)*", said, re.M)
        wrong += unlike(whole[kind], killed)
        if wrong:
            tally.fail(f"{case}: " + " | ".join(wrong)[:3000])
            print(tally.failures[-1], file=sys.stderr)
        else:
            tally.count("runs bit-equal, none left, none hung")


def train(work: Path, data: Path, kind: str, kills: int, seed: str, launched: str) -> str:
    """Run one training with its kills; what ``kills_job.py`` says."""
    resume = ["--auto-resume"] if kills else []
    settings = options(data, "checkpoint_config.iterations=2", *KINDS[kind])
    arguments = [TINY, "--seed", "0", *resume, *settings]
    command = [sys.executable, str(JOB), str(work), str(kills), seed, launched, *arguments]
    try:
        job = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as late:
        return f"{(late.stdout or b'').decode()}\nwrong: not over after {SECONDS} s"
    if job.returncode and "wrong:" not in job.stdout:
        return f"{job.stdout}\nwrong: {job.stderr[-1500:]}"
    return job.stdout


def unlike(whole: Path, killed: Path) -> list[str]:
    """What a run that was killed has left otherwise than one that was not."""
    if not (killed / "latest.pth").exists():
        return ["no checkpoint"]
    wrong = []
    best = [sorted(path.name for path in run.glob("best_*.pth")) for run in (whole, killed)]
    if best[0] != best[1]:
        wrong.append(f"best checkpoints {best[0]} and {best[1]}")
    for name in ("latest.pth", *(best[0] if best[0] == best[1] else ())):
        different = differences(checkpoint(whole, name), checkpoint(killed, name))
        if different:
            wrong.append(f"{name} differs in {different[:3]}")
    if temporary := [path.name for path in killed.glob(".*.tmp")]:
        wrong.append(f"left {temporary}")
    return wrong
