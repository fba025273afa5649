"""Turn a recipe for COCO into one for other data: what is decided, and why.

:func:`decide` changes a config of the catalogue, or another one, in place. Each of its steps states
in one line what it has decided; the lines become comments of the config that is written
(:mod:`models_mm.mmdet2.config_text`).
"""

import copy
import inspect
import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmcv import Config
from mmdet.models import build_detector
from mmdet.models.builder import BACKBONES

from models_mm.checkpoints import load_for_finetuning
from models_mm.checkpoints.files import is_url, missing_file_message
from models_mm.config_files import box_detector
from models_mm.data.formats.labels import DataSet, Part
from models_mm.decisions import Decisions
from models_mm.errors import UserError
from models_mm.mmdet2.building import built
from models_mm.mmdet2.datasets import masks_of
from models_mm.mmdet2.settings import arguments
from models_mm.mmdet2.sizes import change_size, size_of

EPOCHS = 12  # of the 1x schedule
STEPS = 1500  # that a run on small data is to have at least
MOST_EPOCHS = 300
EVALUATIONS = 20  # that a run is to have at least, if it has so many epochs
BATCH = 16  # images per step of the published recipes, and the fewest for norms that learn
SMALL = 1000  # images: with fewer, the first stage of a pretrained backbone is frozen
WARMUP = 0.1  # the largest share of the run
EMA_STEPS, EMA_SHARE = 1000, 0.05  # averages: from this length on, over this share of the run
SMALLEST_SIDE = 32  # pixels: mmdet leaves out images that are smaller
MONITOR = "bbox_mAP"
# Heads whose classes are not those of the objects.
OTHER_CLASSES = ("backbone", "rpn_head", "semantic_head")


@dataclass(frozen=True)
class Choices:
    """What the user has chosen; ``None``: it is decided here.

    Attributes:
        out: the work dir.
        start: ``"scratch"``, a checkpoint, or what the recipe starts from.
        epochs: the length of the run.
        batch: images per process and step.
        size: longer and shorter side of the images in pixels.
        lr: the learning rate.
        patience: evaluations without a better one that end the run.
        freeze: ``frozen_stages`` of the backbone.
        processes: as many as GPUs.
        seed: of the run.
    """

    out: Path
    start: str | None = None
    epochs: int | None = None
    batch: int = 2
    size: tuple[int, int] | None = None
    lr: float | None = None
    patience: int | None = None
    freeze: int | None = None
    processes: int = 1
    seed: int = 0


def decide(cfg: Config, data: DataSet, choices: Choices, name: str, said: Decisions) -> None:
    """Change a config to train on other data.

    Args:
        cfg: the config, changed in place.
        data: the labelled images, with ``train`` and ``val``.
        choices: of the user.
        name: of the config, for messages.
        said: takes the decisions with their reasons.

    Raises:
        UserError: model and data, or model and choices, do not fit each other.
    """
    check_masks(cfg, data, name)
    set_files(cfg, data, choices)
    set_classes(cfg, data, said)
    set_size(cfg, choices, said)
    set_start(cfg, choices, said)
    set_frozen_parts(cfg, data, choices, said)
    steps = steps_per_epoch(cfg, data.parts["train"], choices)
    set_length(cfg, steps, choices, said)
    set_rate(cfg, choices, said)
    set_averages(cfg, steps, said)
    set_evaluation(cfg, choices, said)
    set_logs(cfg, steps, choices, said)


def check_start(cfg: Config) -> None:
    """Refuse a model that cannot be built, and a checkpoint that it cannot start from.

    Raises:
        UserError: says why.
    """
    settings, outer = copy.deepcopy(cfg.model), (cfg.get("train_cfg"), cfg.get("test_cfg"))
    model = built("model", lambda: build_detector(settings, *outer))
    if cfg.get("load_from") and not is_url(cfg.load_from):
        load_for_finetuning(model, cfg.load_from)


def check_masks(cfg: Config, data: DataSet, name: str) -> None:
    """Refuse boxes for a detector that learns masks.

    Raises:
        UserError: names the detector of boxes with the same backbone.
    """
    if not needs_masks(cfg) or data.masks == "all":
        return
    have = "boxes only" if data.masks == "none" else "masks for some of the objects only"
    other = box_detector(name)
    raise UserError(
        f"{name.partition('_fpn_')[0]} learns masks, and the data have {have}: train "
        f"{other or 'a detector of boxes, such as Faster R-CNN,'} instead"
    )


def needs_masks(cfg: Config) -> bool:
    """Whether the training of a config reads masks."""
    return masks_of(inner(cfg.data.get("train"), "train").get("pipeline")) is not None


def inner(dataset: dict | None, split: str) -> dict:
    """The data set of a config without the wrappers around it.

    Raises:
        UserError: there is none, it is a list of data sets, or joins several.
    """
    while isinstance(dataset, dict) and isinstance(dataset.get("dataset"), dict):
        dataset = dataset["dataset"]
    if dataset is None:
        raise UserError(f"data.{split} of the config is missing: its pipeline is needed")
    if not isinstance(dataset, dict) or "datasets" in dataset:
        raise UserError(
            f"data.{split} of the config has several data sets, and --data gives one: use a config "
            "with one"
        )
    return dataset


def set_files(cfg: Config, data: DataSet, choices: Choices) -> None:
    """Let the data sets of the config read the annotations in the work dir."""
    out = os.path.abspath(choices.out)
    cfg.work_dir, cfg.seed = out, choices.seed
    parts = {"train": "train", "val": "val", "test": "test" if "test" in data.parts else "val"}
    if "test" not in cfg.data:
        cfg.data.test = copy.deepcopy(cfg.data.get("val"))
    for split, part in parts.items():
        dataset = inner(cfg.data.get(split), split)
        for key in ("data_root", "seg_prefix", "proposal_file"):
            dataset.pop(key, None)
        dataset.update(
            type="CocoDataset",
            classes=data.classes,
            ann_file=f"{out}/annotations/{part}.json",
            img_prefix=os.path.join(os.path.abspath(data.parts[part].folder), ""),
        )
    loaders = {key: cfg.data[key] for key in cfg.data if key.endswith("_dataloader")}
    for key in ("samples_per_gpu", "persistent_workers"):
        loaders.get("train_dataloader", {}).pop(key, None)
    workers = cfg.data.get("workers_per_gpu", 2)
    own = {split: cfg.data[split] for split in parts}
    cfg.data = dict(samples_per_gpu=choices.batch, workers_per_gpu=workers, **own, **loaders)


def set_classes(cfg: Config, data: DataSet, said: Decisions) -> None:
    """Give all class layers the number of classes.

    Raises:
        UserError: the model has none.
    """
    number = len(data.classes)
    heads = list(class_layers(cfg.model, "model"))
    if not heads:
        raise UserError("the model of the config has no num_classes that could be set")
    for _, head in heads:
        head["num_classes"] = number
    places = ", ".join(where for where, _ in heads)
    said.say("model", f"num_classes={number} in {places}: the classes of the data")


def class_layers(part: object, where: str) -> Iterator[tuple[str, dict]]:
    """The parts of a model that have ``num_classes``, with their places."""
    if isinstance(part, dict):
        if "num_classes" in part:
            yield where.removeprefix("model."), part
        for key, value in part.items():
            if key not in OTHER_CLASSES:
                yield from class_layers(value, f"{where}.{key}")
    elif isinstance(part, (list, tuple)):
        for number, item in enumerate(part):
            yield from class_layers(item, f"{where}.{number}")


def set_size(cfg: Config, choices: Choices, said: Decisions) -> None:
    """Bring all pipelines to the size that is chosen.

    Raises:
        UserError: they have no size that could be replaced.
    """
    pipelines = [
        inner(cfg.data[split], split).get("pipeline") for split in ("train", "val", "test")
    ]
    old = size_of(pipelines[1]) or size_of(pipelines[0])
    if choices.size is None:
        shown = "{}x{}".format(*old) if old else "as in the pipelines"
        said.say("data", f"image size {shown}, the recipe's: --size changes it")
        return
    if old is None:
        raise UserError("--size: the pipelines of the config have no img_scale to replace")
    new = (max(choices.size), min(choices.size))
    for pipeline in pipelines:
        change_size(pipeline, old, new)
    said.say(
        "data",
        f"images at most {new[0]} pixels long and {new[1]} wide in all pipelines, where the recipe "
        f"has {old[0]} and {old[1]}: --size; other sizes in them are in proportion",
    )


def set_start(cfg: Config, choices: Choices, said: Decisions) -> None:
    """Settle what the weights are before the first step.

    Raises:
        UserError: a checkpoint does not exist.
    """
    backbone = cfg.model.backbone
    init = backbone.get("init_cfg") or {}
    file = init.get("checkpoint") if init.get("type") == "Pretrained" else None
    cfg.load_from, cfg.resume_from = None, None
    if choices.start == "scratch":
        forget_pretrained(cfg)
        said.say("model", "random weights at the start: --from scratch")
    elif choices.start is not None:
        cfg.load_from = existing(choices.start)
        forget_pretrained(cfg)
        without = f"; {file}, which it overwrites, is not read" if file else ""
        said.say("load_from", f"the run starts from this detector: --from{without}")
    elif file is not None:
        backbone.init_cfg.checkpoint = existing(file, ", or give --from scratch or --from FILE")
        said.say("model", "the backbone starts from the recipe's file, pretrained on ImageNet")
    else:
        said.say("model", "random weights at the start, as in the recipe")


def forget_pretrained(cfg: Config) -> None:
    """Let a model start from random weights."""
    for part, key in ((cfg.model.backbone, "init_cfg"), (cfg.model, "pretrained")):
        if key in part:
            part[key] = None


def existing(file: str, hint: str = "") -> str:
    """The absolute path of a checkpoint; a URL as it is.

    Raises:
        UserError: it does not exist.
    """
    if is_url(file):
        return file
    path = Path(file).expanduser()
    if not path.is_file():
        message = missing_file_message(file)
        raise UserError(f"{message}{hint}" if "\n" not in message else f"{message}\n  {hint[2:]}")
    return str(path.absolute())


def set_frozen_parts(cfg: Config, data: DataSet, choices: Choices, said: Decisions) -> None:
    """Freeze parts of a pretrained backbone that few images would spoil, and nothing else.

    Raises:
        UserError: the backbone has no ``frozen_stages`` for a choice of it.
    """
    backbone = cfg.model.backbone
    pretrained = backbone.get("init_cfg") or cfg.load_from or cfg.model.get("pretrained")
    known = known_settings(backbone)
    if choices.freeze is not None and "frozen_stages" not in known:
        raise UserError(f"--freeze: the backbone {backbone.type} has no frozen_stages")
    images, step = len(data.parts["train"].images), choices.batch * choices.processes
    if choices.freeze is not None:
        backbone.frozen_stages = choices.freeze
        said.say("model", f"frozen_stages={choices.freeze} of the backbone: --freeze")
    elif not pretrained:
        if known.get("frozen_stages", -1) >= 0:
            backbone.frozen_stages = -1
            said.say("model", "no frozen stages: nothing is pretrained")
    elif images < SMALL and "frozen_stages" in known:
        backbone.frozen_stages = max(1, known["frozen_stages"])
        said.say(
            "model",
            f"frozen_stages={backbone.frozen_stages} of the backbone: {images} images are fewer "
            f"than {SMALL}, and early layers fit other images well; --freeze changes it",
        )
    if not pretrained and known.get("norm_eval"):
        backbone.norm_eval = False
        said.say("model", "norm_eval=False: without pretraining the norms need statistics")
    elif pretrained and step < BATCH and known.get("norm_eval") is False:
        backbone.norm_eval = True
        said.say(
            "model",
            f"norm_eval=True: {step} images per step are too few for the statistics of the "
            "pretrained norms",
        )


def known_settings(backbone: dict) -> dict[str, object]:
    """The settings that a backbone takes and has, as far as they are known, with their values."""
    kind = BACKBONES.get(str(backbone.get("type")))
    known = arguments(kind) if kind else {}
    if known is None:  # it takes more than its constructors name
        owners = [owner for owner in reversed(kind.__mro__[:-1]) if "__init__" in vars(owner)]
        signatures = [inspect.signature(owner.__init__).parameters for owner in owners]
        known = {name: value for signature in signatures for name, value in signature.items()}
    defaults = {name: argument.default for name, argument in known.items()}
    return {**{name: value for name, value in defaults.items() if value is not None}, **backbone}


def steps_per_epoch(cfg: Config, part: Part, choices: Choices) -> int:
    """The iterations of an epoch: a batch has images that lie, or images that stand.

    Raises:
        UserError: no image can be trained on.
    """
    train = cfg.data.train
    empty_too = inner(train, "train").get("filter_empty_gt") is False
    shapes = Counter(
        image.width > image.height
        for image in part.images
        if (image.objects or empty_too) and min(image.width, image.height) >= SMALLEST_SIDE
    )
    images = choices.batch * choices.processes
    steps = sum(math.ceil(number / images) for number in shapes.values())
    if not steps:
        raise UserError(
            f"{part.file}: no image can be trained on: none has an object, or all are smaller than "
            f"{SMALLEST_SIDE} pixels"
        )
    return steps * (train.get("times", 1) if train.get("type") == "RepeatDataset" else 1)


def set_length(cfg: Config, steps: int, choices: Choices, said: Decisions) -> None:
    """Set the number of epochs, and move milestones and warm-up with it."""
    epochs = choices.epochs
    if epochs is None:
        epochs = min(max(EPOCHS, math.ceil(STEPS / steps)), MOST_EPOCHS)
        reason = f"the 1x schedule, and at least {STEPS} steps if {MOST_EPOCHS} epochs give them"
    else:
        reason = "--epochs"
    said.say("runner", f"{epochs} epochs of {steps} steps: {reason}")
    runner = cfg.get("runner") or {}
    length = (
        runner.get("max_epochs") or runner.get("max_iters") or cfg.get("total_epochs") or EPOCHS
    )
    cfg.runner = dict(type="EpochBasedRunner", max_epochs=epochs)
    cfg.pop("total_epochs", None)
    for name in ("lr_config", "momentum_config"):
        schedule = cfg.get(name)
        if not schedule:
            continue
        if "step" in schedule:
            set_milestones(schedule, length, epochs)
            said.say(name, f"steps after epochs {schedule.step}: the recipe's shares of the run")
        if schedule.get("warmup"):
            recipe = schedule.get("warmup_iters", 0)
            recipe *= steps if schedule.pop("warmup_by_epoch", False) else 1
            schedule.warmup_iters = max(1, min(recipe, int(WARMUP * epochs * steps), steps))
            said.say(
                name,
                f"warm-up of {schedule.warmup_iters} steps: the recipe's {recipe}, but at most an "
                f"epoch and {WARMUP:.0%} of the run",
            )


def set_milestones(schedule: dict, length: int, epochs: int) -> None:
    """Put the steps of a schedule at the same shares of a run of other length.

    Args:
        schedule: ``lr_config`` or ``momentum_config``; it counts epochs afterwards.
        length: of the recipe, in what its steps count.
        epochs: of the run.
    """
    step = schedule["step"]
    old = list(range(step, length, step)) if isinstance(step, int) else step
    new = sorted({max(1, round(place * epochs / length)) for place in old})
    schedule["step"] = [place for place in new if place < epochs] or [epochs]
    schedule.pop("by_epoch", None)


def set_rate(cfg: Config, choices: Choices, said: Decisions) -> None:
    """Scale the learning rate to the images of a step, unless it is chosen."""
    base = (cfg.get("auto_scale_lr") or {}).get("base_batch_size", BATCH)
    step = choices.batch * choices.processes
    step *= (cfg.get("optimizer_config") or {}).get("cumulative_iters", 1)
    if choices.lr is not None:
        cfg.optimizer.lr = choices.lr
        cfg.auto_scale_lr = dict(enable=False, base_batch_size=step)
        said.say("optimizer", f"learning rate {choices.lr:g}: --lr")
        return
    cfg.auto_scale_lr = dict(enable=True, base_batch_size=base)
    rate, here = cfg.optimizer.lr, f"{choices.processes} x {choices.batch}"
    said.say(
        "auto_scale_lr",
        f"the rate {rate:g} is for {base} images per step; for {here}, --gpus x --batch, it "
        f"becomes {rate * step / base:g}",
    )


def set_averages(cfg: Config, steps: int, said: Decisions) -> None:
    """Average the weights where the run is long enough for it, unless the recipe decides."""
    if cfg.get("ema") is not None or "EMAHook" in str(cfg.get("custom_hooks")):
        return
    total = steps * cfg.runner.max_epochs
    if total < EMA_STEPS:
        said.say("runner", f"no average of the weights: {total} steps are fewer than {EMA_STEPS}")
        return
    cfg.ema = dict(momentum=float(f"{1 / (EMA_SHARE * total):.2g}"))
    said.say("ema", f"the weights are averaged over about {EMA_SHARE:.0%} of the {total} steps")


def set_evaluation(cfg: Config, choices: Choices, said: Decisions) -> None:
    """Settle when the detector is evaluated, which checkpoints stay, and an early end."""
    epochs = cfg.runner.max_epochs
    interval = next(n for n in range(max(1, epochs // EVALUATIONS), 0, -1) if epochs % n == 0)
    ours = ("interval", "start", "by_epoch", "dynamic_intervals", "metric", "save_best", "rule")
    others = {key: value for key, value in cfg.get("evaluation", {}).items() if key not in ours}
    metric = ["bbox", "segm"] if needs_masks(cfg) else "bbox"
    cfg.evaluation = dict(interval=interval, metric=metric, save_best=MONITOR, **others)
    often = (
        "every epoch" if interval == 1 else f"every {interval} epochs, {epochs // interval} times"
    )
    said.say("evaluation", f"{often}; the checkpoint with the best {MONITOR} is kept")
    before = {
        key: value
        for key, value in (cfg.get("checkpoint_config") or {}).items()
        if key in ("iterations", "minutes")
    }
    cfg.checkpoint_config = dict(interval=interval, max_keep_ckpts=2, **before)
    said.say("checkpoint_config", "the two newest checkpoints are kept, to resume from")
    if choices.patience is not None:
        cfg.early_stopping = dict(
            patience=choices.patience, monitor=MONITOR, min_delta=0.0, mode="max"
        )
        said.say(
            "early_stopping",
            f"the run ends after {choices.patience} evaluations without a better {MONITOR}: "
            "--patience",
        )


def set_logs(cfg: Config, steps: int, choices: Choices, said: Decisions) -> None:
    """Log at least once per epoch."""
    if cfg.get("log_config") and cfg.log_config.interval > steps:
        cfg.log_config.interval = steps
        said.say("log_config", f"once per epoch, which has {steps} steps")
