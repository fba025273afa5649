"""The report of a training, from what lies in its work dir."""

import re
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from mmcv import Config
from mmdet.utils import build_dp
from torch import nn

from models_mm.checkpoints import runs
from models_mm.data.sampling import SeededSamples, image_metas
from models_mm.errors import UserError, printable
from models_mm.evaluation.matching import Matches, match
from models_mm.evaluation.results import boxes_of, confident_objects
from models_mm.mmdet2.analysis import confusion_counts
from models_mm.mmdet2.benchmark import multiply_adds
from models_mm.mmdet2.building import build_data
from models_mm.mmdet2.configs import check_files, compatible, load_config
from models_mm.mmdet2.data_files import files_of
from models_mm.mmdet2.datasets import CocoDataset
from models_mm.mmdet2.evaluation import predict
from models_mm.mmdet2.inference import usable
from models_mm.mmdet2.pictures import comparison, evenly, sample_picture
from models_mm.mmdet2.settings import check_settings
from models_mm.mmdet2.sizes import size_of
from models_mm.mmdet2.testing import build_loader, load_model
from models_mm.mmdet2.work_dirs import find_trained
from models_mm.outputs import Outputs, write_whole
from models_mm.visualization.curves import curve_drawings, read_log
from models_mm.visualization.report import Report, Table, confusion_of, embedded

WORST, SAMPLES = 12, 8  # pictures
LONGEST = 400  # pixels of an image among the worst
SCORE = 0.3  # the lowest of a detection in the confusion matrix and the pictures
EVENTS = 200  # lines; further ones are counted
LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d+ - \w+ - [A-Z]+ - (.*)")
EVENT = re.compile(
    "resumed |auto-resume: going on|bad image |step left out|going on under a config|"
    r"checkpoints in .* of another run|\d+ processes x \d+ images have become"
)
AP = ("all", "IoU 0.5", "IoU 0.75", "small", "medium", "large")
SIZES = {"small": "< 32²", "medium": "32²–96²", "large": "> 96²"}


def write_report(
    work_dir: str | Path, device: str | None = None, config: str | Path | None = None
) -> Path:
    """Write ``report.html`` into the work dir of a training.

    The best checkpoint, or else the last, is evaluated on ``data.val``. A section whose data cannot
    be read is left out, and the page says so.

    Args:
        work_dir: of the training.
        device: for the evaluation (default: a GPU if there is one).
        config: of the training (default: the one in the work dir).

    Returns:
        The path of the page.

    Raises:
        UserError: the folder has no training, or cannot be written.
    """
    folder = Path(work_dir)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give the work dir of a training")
    config, checkpoint = find_trained(folder, config)
    cfg = load_config(str(config))
    check_settings(cfg, ("val",))
    meta = runs.read_meta(checkpoint)
    report = Report(folder.resolve().name, f"{checkpoint.name}, {config.name}", score=SCORE)
    report.config = config.read_text(errors="replace")
    report.environment = environment(meta)
    inputs = [config, checkpoint]

    logs = logs_of_run(folder, meta.get("run"))
    guarded(report, "curves", lambda: add_logs(report, logs))
    cfg = compatible(cfg)
    place = usable(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    cfg.device, cfg.fp16 = place.type, None  # float32: a CPU counts the operations
    model = load_model(cfg, str(checkpoint), fuse=False)
    guarded(report, "costs", lambda: add_costs(report, model, cfg))
    guarded(report, "accuracy", lambda: inputs.extend(add_accuracy(report, cfg, model, place)))
    guarded(report, "samples", lambda: inputs.extend(add_samples(report, cfg)))
    path = Outputs(folder, inputs).path("report.html")
    write_whole(path, report.html())
    return path


def guarded(report: Report, section: str, add) -> None:
    """Add a section; say on the page why it is not there if that fails."""
    try:
        add()
    except UserError as error:
        report.notes.append(f"{section}: {printable(str(error))}")
    except Exception as error:  # no detector or data set should cost the rest of the report
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        report.notes.append(f"{section}: {printable(reason)}")


def logs_of_run(folder: Path, run: object) -> list[Path]:
    """The JSON logs of a run: from the last one that began before the run had its name."""
    logs = sorted(folder.glob("*.log.json"))
    begin = run[:15] if isinstance(run, str) else ""
    before = [number for number, log in enumerate(logs) if log.name[:15] <= begin]
    return logs[max(before, default=0) :]


def environment(meta: dict) -> list[tuple[str, str]]:
    """What the checkpoint says of where it was trained."""
    lines = str(meta.get("env_info", "")).splitlines()
    pairs = [line.split(": ", 1) for line in lines if ": " in line]
    found = [(name.strip(), value.strip()) for name, value in pairs]
    seed = [("random seed", str(meta["seed"]))] if "seed" in meta else []
    return seed + found


# --- logs


def add_logs(report: Report, logs: list[Path]) -> None:
    """Add the curves, the speed of the training, and what has happened in it.

    Raises:
        UserError: there is no log, or one cannot be read.
    """
    texts = [log.with_suffix("") for log in logs]
    report.events = events([text for text in texts if text.is_file()])
    if not logs:
        raise UserError("the work dir has no *.log.json")
    train, val = joined([read_log(str(log)) for log in logs])
    report.curves = curve_drawings((train, val))
    best = {key: max(value for _, value in points) for key, points in val.items()}
    for key, name in (("bbox_mAP", "best box AP"), ("segm_mAP", "best mask AP")):
        if key in best:
            report.figures.append((name, f"{100 * best[key]:.1f}"))
    points = [epoch for values in (*train.values(), *val.values()) for epoch, _ in values]
    report.figures.append(("epochs", f"{max(points):.3g}"))
    if "time" in train:
        seconds = np.median([value for _, value in train["time"]])
        report.costs.append(("training", f"{seconds:.3g} s per iteration (median)"))
    if "memory" in train:
        most = max(value for _, value in train["memory"])
        report.costs.append(("memory of the GPU in training", f"{most:,.0f} MB"))


def joined(parts: list[tuple[dict, dict]]) -> tuple[dict, dict]:
    """The values of several logs of one run; where they overlap, those of the later log count."""
    whole: tuple[dict, dict] = ({}, {})
    for part in parts:
        for values, series in zip(whole, part, strict=True):
            for key, points in series.items():
                begin = points[0][0]
                kept = [point for point in values.get(key, []) if point[0] < begin]
                values[key] = kept + points
    return whole


def events(logs: list[Path]) -> list[str]:
    """Resumes, bad images and the like, as the logs tell them."""
    found: list[str] = []
    more = 0
    for log in logs:
        with open(log, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                said = LINE.match(line[:2000])
                if said is None or not EVENT.match(said[2]):
                    continue
                if len(found) < EVENTS:
                    found.append(printable(f"{said[1]}  {said[2]}"))
                else:
                    more += 1
    return found + [f"and {more} more, in the logs"] * bool(more)


# --- what the detector needs


def add_costs(report: Report, model: nn.Module, cfg: Config) -> None:
    """Add parameters and multiply-adds.

    Raises:
        UserError: the test pipeline has no ``img_scale``.
    """
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    report.figures.append(("million parameters", f"{parameters:.3g}"))
    report.costs.insert(0, ("parameters", f"{parameters:.4g} million"))
    size = size_of(cfg.data.val.pipeline)
    if size is None:
        raise UserError("the pipeline of data.val has no img_scale")
    width, height = (-(-side // 32) * 32 for side in size)
    operations = multiply_adds(model.forward_dummy, torch.zeros(1, 3, height, width))
    what = f"{operations:.4g} billion multiply-adds at {width}x{height} pixels"
    report.costs.insert(1, ("operations per image", what))


# --- accuracy


def add_accuracy(report: Report, cfg: Config, model: nn.Module, device: torch.device) -> list[str]:
    """Add metrics, the confusion matrix and the worst images.

    Returns:
        The files that were read.

    Raises:
        UserError: the validation data cannot be read or evaluated.
    """
    check_files(cfg, ("val",))
    # no data workers: this may be a process with threads, which should not be forked
    loader = build_loader(cfg, "val", workers_per_gpu=0)
    dataset = loader.dataset
    if not isinstance(dataset, CocoDataset):
        raise UserError(f"the report evaluates CocoDataset, not {type(dataset).__name__}")
    kinds = ["bbox", "segm"] if model.with_mask else ["bbox"]
    dataset.check_truth(kinds)
    loader.take_share(dist=False, shuffle=False)
    start = time.perf_counter()
    results = predict(build_dp(model, device.type, device_ids=[device.index or 0]), loader)
    rate = len(dataset) / (time.perf_counter() - start)
    what = f"{rate:.3g} images/s on {device}, with reading, {len(dataset)} images"
    report.costs.append(("inference", what))
    report.figures.append(("images/s, inference", f"{rate:.3g}"))
    add_results(report, dataset, results, kinds)
    return files_of(dataset)


def add_results(report: Report, dataset: CocoDataset, results: list, kinds: list[str]) -> None:
    """Add what a detector's results for the images of a data set are worth."""
    report.tables = accuracy_tables(dataset, results, kinds)
    report.confusion = confusion_of(confusion_counts(dataset, results, SCORE), dataset.CLASSES)
    ranked = sorted(range(len(dataset)), key=lambda i: error_key(matches(dataset, results[i], i)))
    for index in ranked[:WORST]:
        found = matches(dataset, results[index], index)
        try:
            picture = comparison(dataset, results[index], index, SCORE, LONGEST)
        except UserError as error:
            report.notes.append(f"worst images: {printable(str(error))}")
            continue
        text = f"{found.hits} found, {found.missed} missed, {found.wrong} wrong"
        name = printable(str(dataset.data_infos[index]["filename"]))
        report.worst.append(embedded(picture, name, f"{text}, F1 {found.f1:.2f}"))


def accuracy_tables(dataset: CocoDataset, results: list, kinds: list[str]) -> list[Table]:
    """The AP overall and by size, and by class."""
    names = {"bbox": "box AP", "segm": "mask AP"}
    found = {
        kind: dataset.coco_metrics(results, kind, (100, 300, 1000), None, None) for kind in kinds
    }
    overall = []
    for place, row in enumerate(AP):
        name = f"{row} ({SIZES[row]})" if row in SIZES else row
        cells = (None if of is None else of.statistics[place] for of in found.values())
        overall.append([name, *map(percent, cells)])
    counts = Counter(
        annotation["category_id"]
        for annotation in dataset.annotations()
        if not annotation["iscrowd"]
    )
    classes = []
    for category, label in dataset.cat2label.items():
        cells = (None if of is None else of.class_precisions[category] for of in found.values())
        classes.append([dataset.CLASSES[label], str(counts[category]), *map(percent, cells)])
    columns = [names[kind] for kind in kinds]
    return [
        Table("Overall and by size of the objects in pixels", ["", *columns], overall),
        Table("By class", ["class", "objects", *columns], classes),
    ]


def percent(value: float | None) -> str:
    """An AP in percent; a dash where there is no object."""
    if value is None:
        return "0.0"  # nothing was detected
    return f"{100 * value:.1f}" if value >= 0 else "–"


def matches(dataset: CocoDataset, result, index: int) -> Matches:
    """How the detections of an image fit its objects."""
    boxes, labels, _ = confident_objects(boxes_of(result), SCORE)
    truth = dataset.get_ann_info(index)
    return match(boxes, labels, truth["bboxes"], truth["labels"], truth["bboxes_ignore"])


def error_key(found: Matches) -> tuple[float, int]:
    """Sorts the worst images first: by F1, then by the number of errors."""
    return found.f1, -(found.missed + found.wrong)


def add_samples(report: Report, cfg: Config) -> list[str]:
    """Add samples of the training data, and its size; returns the files that were read.

    Raises:
        UserError: the training data cannot be read.
    """
    check_files(cfg, ("train",))
    dataset = build_data(cfg.data.train, "train")
    samples = SeededSamples(dataset)
    for index in map(int, evenly(dataset, SAMPLES)):
        sample = samples[index, (0, index)]
        name = image_metas(sample)[0].get("ori_filename", "")  # not the one of a bad image
        picture = sample_picture(sample, dataset)
        report.samples.append(embedded(picture, printable(str(name)), width=480))
    report.figures.append(("training images", f"{len(dataset):,}"))
    return files_of(dataset)
