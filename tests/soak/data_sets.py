"""Small data sets with random faults: does tools/check_dataset.py say what then happens?

Each data set has zero to three faults of ``mutations.py``. The check and what uses a data set
(training with its evaluation, browsing, pictures of results, analysis) run in processes of their
own, forked after the imports. They agree if the check finds nothing and all of it works, or if the
check names entry and field, and each use works or ends with one line.
"""

import models_mm  # isort: skip  # noqa: F401

import contextlib
import json
import os
import random
import re
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pycocotools.mask as coco_mask
import torch
from mmdet.apis import set_random_seed
from mmdet.utils import compat_cfg

from models_mm.cli.command import explained_faults
from models_mm.data.check import HARMLESS, check_coco
from models_mm.errors import UserError
from models_mm.mmdet2.analysis import confusion_matrix, error_analysis
from models_mm.mmdet2.building import build_data, build_model
from models_mm.mmdet2.configs import check_files, load_config
from models_mm.mmdet2.datasets import coco_sources
from models_mm.mmdet2.pictures import draw_comparisons, draw_samples
from models_mm.mmdet2.train_detector import start_loaders, train_detector

from .mutations import mutated
from .tally import Tally

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {
    "boxes": ROOT / "tests" / "runs" / "tiny.py",
    "masks": ROOT / "tests" / "soak" / "tiny_mask.py",
}
METRICS = {"boxes": ["bbox"], "masks": ["bbox", "segm"]}
LINES = 7  # of a message: bad images are listed, five at most
LIMIT = 120  # seconds of a step; on a busy machine too


def soak(count: int, seed: int, folder: Path) -> Tally:
    """Try data sets ``seed * 100000`` and the following.

    Args:
        count: how many.
        seed: other data sets.
        folder: where they are made.
    """
    matplotlib.use("Agg")
    tally = Tally()
    for case in range(seed * 100_000, seed * 100_000 + count):
        place = folder / f"case_{case}"
        outcome, disagreements, faults = try_case(case, place)
        if disagreements:
            tally.fail(f"case {case} ({', '.join(faults) or 'no fault'}): {disagreements[0]}")
        else:
            tally.count(outcome)
            shutil.rmtree(place)
    return tally


def try_case(case: int, place: Path) -> tuple[str, list[str], list[str]]:
    """Make a data set and try it; its outcome, what contradicts the check, and its faults."""
    generator = random.Random(case)
    kind = generator.choice(list(CONFIGS))
    faults = mutated(place, generator)
    steps = {"check": check, "train": train, "browse": browse, "show": show}
    if generator.random() < 0.05:  # seconds
        steps["analyze"] = analyze
    said = {}
    for name, step in steps.items():
        said[name] = forked(lambda step=step: step(kind, place), place / f"{name}.txt")
    found = said.pop("check")
    wrong = [f"{name}: {text}" for name, text in said.items() if text.startswith("BROKEN")]
    if found.startswith("BROKEN"):
        wrong.insert(0, f"check: {found}")
    elif found == "ok":
        wrong += [f"check passes, {name}: {text}" for name, text in said.items() if text != "ok"]
    wrong += [
        f"{name} names nothing: {text}"
        for name, text in said.items()
        if text.startswith("error: ") and place.name not in text and ".jpg" not in text
    ]
    if found == "ok":
        return "sound, and all runs", wrong, faults
    runs = all(text == "ok" for text in said.values())
    return ("named, but all runs" if runs else "named, and refused"), wrong, faults


def forked(step: Callable[[], str | None], log: Path) -> str:
    """What a step comes to in a process of its own: ``ok``, ``error: ...`` or ``BROKEN: ...``."""
    pid = os.fork()
    if not pid:
        os.setpgid(0, 0)
        torch.set_num_threads(1)
        said = "BROKEN: no end"
        try:
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            said = step() or "ok"
        except UserError as error:
            said = f"error: {error}"
            if len(said.splitlines()) > LINES or "Traceback" in said:
                said = f"BROKEN: too long: {said}"
        except BaseException as error:
            traceback.print_exc()
            said = f"BROKEN: {type(error).__name__}: {error}"
        finally:
            with contextlib.suppress(OSError):
                log.with_suffix(".said").write_text(said, errors="backslashreplace")
            os._exit(0)
    return ended(pid, log)


def ended(pid: int, log: Path) -> str:
    """Wait for a forked step."""
    deadline = time.monotonic() + LIMIT
    while not (done := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return f"BROKEN: hangs ({log})"
        time.sleep(0.01)
    if done[1]:
        return f"BROKEN: crashed with {os.waitstatus_to_exitcode(done[1])} ({log})"
    return log.with_suffix(".said").read_text()


def options(place: Path) -> dict[str, object]:
    """``--cfg-options`` that train on a data set for an epoch, and evaluate on it."""
    values: dict[str, object] = {
        f"data.{split}.{key}": str(value)
        for split in ("train", "val", "test")
        for key, value in (("ann_file", place / "faulty.json"), ("img_prefix", place / "images"))
    }
    sizes = {"data.samples_per_gpu": 1, "data.workers_per_gpu": 0}
    sizes |= {"data.val_dataloader.workers_per_gpu": 0, "runner.max_epochs": 1}
    return values | sizes | {"checkpoint_config.interval": 99}


def check(kind: str, place: Path) -> str | None:
    """The check of the training and of the validation data."""
    cfg = load_config(str(CONFIGS[kind]), options(place))
    problems = []
    for split in ("train", "val"):
        for _, source in coco_sources(cfg.data[split], split == "train", tuple(METRICS[kind])):
            problems += check_coco(**source)
    for problem in problems:
        named = problem.where and re.match(r"[a-z_, ]+: .", problem.detail)
        whole = ("nothing to use", "bad images", "bad annotations", "bad categories")
        assert named or problem.kind in whole, problem
        assert (str(problem.where) + str(problem.detail)).isprintable(), problem
    serious = [problem for problem in problems if problem.kind not in HARMLESS]
    return f"found: {serious}" if serious else None


def train(kind: str, place: Path) -> None:
    """A training of an epoch, and its evaluation; tools/train.py without its log of the config."""
    cfg = compat_cfg(load_config(str(CONFIGS[kind]), options(place)))
    cfg.update(work_dir=str(place / "work"), seed=0, device="cpu", gpu_ids=[0])
    (place / "work").mkdir()
    check_files(cfg, ("train", "val"))
    set_random_seed(0)
    with explained_faults():
        loaders, validation = start_loaders(cfg, validate=True)
        model = build_model(cfg)
        model.CLASSES = loaders[0].dataset.CLASSES
        model.init_weights()
        train_detector(model, loaders, validation, cfg, False, "log", {})
    logs = [json.loads(line) for line in (place / "work" / "log.log.json").open()]
    values = [v for log in logs for v in log.values() if isinstance(v, float)]
    assert np.isfinite(values).all(), logs
    assert any(log.get("mode") == "val" for log in logs), logs


def browse(kind: str, place: Path) -> None:
    """tools/browse_dataset.py."""
    cfg = load_config(str(CONFIGS[kind]), options(place))
    dataset = build_data(cfg.data.train, "train")
    draw_samples(dataset, str(place / "samples.png"), 2, 2, 0)


def tested(kind: str, place: Path):
    """The data set as it is tested, and results that are near the truth."""
    cfg = load_config(str(CONFIGS[kind]), options(place))
    dataset = build_data(cfg.data.test, "test", dict(test_mode=True))
    generator = np.random.default_rng(0)
    results = []
    for index in range(len(dataset)):
        info = dataset.get_ann_info(index)
        shape = (dataset.data_infos[index]["height"], dataset.data_infos[index]["width"])
        boxes = [np.zeros((0, 5), np.float32) for _ in dataset.CLASSES]
        for box, label in zip(info["bboxes"], info["labels"], strict=True):
            found = np.append(box.clip(0, 100) + generator.uniform(-2, 2, 4), 0.9)
            boxes[label] = np.vstack([boxes[label], found.astype(np.float32)])
        masks = [[rectangle(box, shape) for box in of_class] for of_class in boxes]
        results.append((boxes, masks) if kind == "masks" else boxes)
    return dataset, results


def rectangle(box: np.ndarray, shape: tuple[int, int]) -> dict:
    """The run lengths of a box's pixels."""
    left, top, right, bottom = box[:4].round().astype(int).clip(0)
    mask = np.zeros(shape, np.uint8, order="F")
    mask[top : bottom + 1, left : right + 1] = 1
    return coco_mask.encode(mask)


def show(kind: str, place: Path) -> None:
    """The evaluation's numbers, and tools/show_results.py."""
    dataset, results = tested(kind, place)
    values = dataset.evaluate(results, METRICS[kind])
    boxes = [result[0] if kind == "masks" else result for result in results]
    nothing = not any(len(of_class) for of_image in boxes for of_class in of_image)
    assert values or nothing, "no metrics"
    assert all(np.isfinite(v) for v in values.values() if isinstance(v, float)), values
    draw_comparisons(dataset, results, str(place / "pictures"), 4)


def analyze(kind: str, place: Path) -> None:
    """tools/analyze_results.py."""
    dataset, results = tested(kind, place)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fonts
        confusion_matrix(dataset, results, place / "analysis", 0.3)
        error_analysis(dataset, results, place / "analysis")


if __name__ == "__main__":  # python -m tests.soak.data_sets CASE FOLDER: one case again
    matplotlib.use("Agg")
    print(*try_case(int(sys.argv[1]), Path(sys.argv[2])), sep="\n")
