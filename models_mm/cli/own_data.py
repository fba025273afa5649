"""One command from labelled images to a detector: ``models_mm train MODEL --data DATA``.

It reads the data, takes the recipe of the model, decides what has to differ from it, writes all of
it as ``config.py`` with the annotations in COCO's format, and trains as ``models_mm train`` or
``dist_train.sh`` would with that file.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from models_mm.cli import report
from models_mm.cli.command import child_environment
from models_mm.config_files import known_model, known_variant
from models_mm.errors import UserError
from models_mm.messages import say
from models_mm.values import SEED, Kind, many, number, whole
from models_mm.version import __version__

if TYPE_CHECKING:
    from models_mm.data.formats.labels import Part

CONFIG = "config.py"
# Options with the values that they may have; ``models_mm.cli.train`` and Python have the same.
KINDS = {
    "epochs": whole(1, 100_000),
    "batch": whole(1, 4096),
    "lr": number(above=0),
    "patience": whole(1, 100_000),
    "freeze": whole(-1),
    "gpus": whole(1),
    "seed": SEED,
}
SIDE = whole(32, 16384)  # of images, in pixels
SIZE = Kind("one or two numbers of pixels", lambda v: many(SIDE).fits(v) and len(v) < 3)
FLAGS = ("auto_resume", "allow_config_changes", "deterministic", "diff_seed", "verbose")
# Settings that other options have, or that follow from the data.
DECIDED = {
    r"work_dir": "use --out",
    r"resume_from": "use --auto-resume",
    r"load_from": "use --from",
    r"data\.(\w+\.)+(classes|ann_file|img_prefix)": "it follows from --data and --val",
}
MOST_READ = 2000  # images of the validation that are read before the training
VAL_SHARE = 0.2  # of the images, where the data have no validation


@dataclass(frozen=True)
class Trained:
    """What a training has left.

    Attributes:
        folder: the work dir.
        config: the config, for ``models_mm.Detector`` and all commands.
        last: the newest checkpoint.
        best: the best one; ``None`` if no evaluation found anything.
        metrics: of both, by ``"last"`` and ``"best"``.
    """

    folder: Path
    config: Path
    last: Path
    best: Path | None
    metrics: dict[str, dict]


def train(
    model: str | Path,
    data: str | Path,
    val: str | Path | None = None,
    *,
    start: str | Path | None = None,
    epochs: int | None = None,
    batch: int = 2,
    size: int | tuple[int, int] | None = None,
    lr: float | None = None,
    patience: int | None = None,
    freeze: int | None = None,
    gpus: int = 1,
    out: str | Path | None = None,
    seed: int = 0,
    images: str | Path | None = None,
    val_images: str | Path | None = None,
    backbone: str | None = None,
    cfg_options: dict | None = None,
    auto_resume: bool = False,
) -> Trained:
    """Train a detector on labelled images; the training runs in processes of its own.

    Args:
        model: a name such as ``recnext_m3`` or ``faster_rcnn_dfvt_t``, or a config file.
        data: a JSON file of COCO, a folder in the layout of COCO, YOLO or Pascal VOC, or a
            data.yaml.
        val: the same for the validation (default: that of ``data``, or a fifth of its images).
        start: a checkpoint, or ``"scratch"`` (default: what the recipe starts from); ``--from``.
        epochs: length of the run (default: 12, more if the data are few).
        batch: images per process and step.
        size: longer and shorter side of the images in pixels, or one number for both.
        lr: learning rate (default: the recipe's, scaled to the images per step).
        patience: end after so many evaluations without a better one (default: do not).
        freeze: ``frozen_stages`` of the backbone.
        gpus: processes, one per GPU.
        out: the work dir (default: ``work_dirs/<model>_<data>``).
        seed: of the run and of the split.
        images: the image folder, if ``data`` is a JSON file.
        val_images: the image folder, if ``val`` is a JSON file.
        backbone: another backbone for the model.
        cfg_options: further settings by their dotted names.
        auto_resume: continue from the newest checkpoint in ``out``.

    Raises:
        UserError: something that was given is wrong, or the training has ended with an error, which
            is on stderr.
    """
    for name, value in dict(model=model, data=data, val=val, start=start, out=out).items():
        if value is not None and (not isinstance(value, (str, Path)) or not str(value)):
            raise UserError(f"{name} must be a path or a name, not {value!r}")
    if not isinstance(cfg_options, (dict, type(None))):
        raise UserError(f"cfg_options must be a dict of settings, not {cfg_options!r}")
    batch, gpus = 2 if batch is None else batch, 1 if gpus is None else gpus
    sizes = [size] if isinstance(size, int) else size
    options = dict(epochs=epochs, batch=batch, size=sizes, lr=lr, patience=patience, freeze=freeze)
    options |= dict(gpus=gpus, out=out, seed=seed, backbone=backbone, cfg_options=cfg_options)
    options |= dict(val=val, images=images, val_images=val_images, start=start and str(start))
    config = prepare(argparse.Namespace(config=str(model), data=str(data), **options))
    more = ["--auto-resume"] * auto_resume
    launcher = ["launch", str(gpus)] if gpus > 1 else []
    command = [sys.executable, "-m", "models_mm", *launcher, "train", str(config), *more]
    code = subprocess.run(command, env=child_environment()).returncode
    if code:
        raise UserError(f"the training in {config.parent} has ended with exit code {code}")
    page = [sys.executable, "-m", "models_mm", "report", str(config.parent)]
    subprocess.run(page, env=child_environment())  # it says itself what is wrong
    return results(config)


def results(config: Path) -> Trained:
    """What a training has left beside its config."""
    folder = config.parent
    file = folder / "results.json"
    found = json.loads(file.read_text()) if file.is_file() else {}
    paths = {name: folder / entry["checkpoint"] for name, entry in found.items()}
    return Trained(
        folder=folder,
        config=config,
        last=paths.get("last", folder / "latest.pth"),
        best=paths.get("best"),
        metrics={name: entry["metrics"] for name, entry in found.items()},
    )


def main(args: argparse.Namespace) -> None:
    """Train as the options of :mod:`models_mm.cli.train` say."""
    config = prepare(args)
    processes = args.gpus or 1
    args.config, args.cfg_options, args.backbone, args.work_dir = str(config), None, None, None
    if processes == 1:
        from models_mm.mmdet2 import training

        args.gpus = None
        training.run(args)
    else:
        from models_mm.cli.launch import run_job

        flags = [f"--{name.replace('_', '-')}" for name in FLAGS if getattr(args, name)]
        if code := run_job(str(processes), ["train", str(config), *flags]):
            sys.exit(code)
    try:
        report.main([str(config.parent)])
    except UserError as error:  # the training itself is done
        say(f"no report: {error}")


def prepare(args: argparse.Namespace) -> Path:
    """Read the data, decide, and write config and annotations; says what is decided.

    Nothing is written before everything is checked, and the config is written last.

    Returns:
        The config.

    Raises:
        UserError: something that was given is wrong.
    """
    # first of all, since the imports take seconds
    print(f"models_mm {__version__}: {args.config} for {args.data}", flush=True)
    from models_mm.data.conversion import changed_annotations, write_annotations
    from models_mm.data.sources import load_data
    from models_mm.data.split import split
    from models_mm.decisions import Decisions
    from models_mm.outputs import write_whole

    for name, kind in KINDS.items():
        if getattr(args, name) is not None:
            kind.check(name, getattr(args, name))
    if args.size is not None:
        SIZE.check("size", args.size)
    if args.gpus and args.gpus > 1:
        check_processes(args.gpus)
    is_file = args.config.endswith(".py")
    if not is_file:
        known_model(args.config, masks=True)  # a wrong name is told before data are read
    if args.backbone is not None:
        args.backbone = known_variant(args.backbone)
    for key in args.cfg_options or ():
        for pattern, instead in DECIDED.items():
            if re.fullmatch(pattern, key):
                raise UserError(f"--cfg-options {key} does not go with --data: {instead}")
    data = load_data(args.data, args.images, args.val, args.val_images)
    if "val" not in data.parts:
        data = split(data, VAL_SHARE, args.seed or 0)
    check_validation(data.parts["val"])
    decisions = Decisions()
    for fact in data.facts():
        decisions.say("data", fact)
    model = args.config if is_file else known_model(args.config, masks=data.masks == "all")
    out = Path(args.out) if args.out else default_folder(model, args.data, args.backbone)
    check_folder(out)
    decisions.say("model", f"the recipe of {Path(model).stem}")

    from models_mm.mmdet2.config_text import config_text
    from models_mm.mmdet2.configs import load_config
    from models_mm.mmdet2.overrides import apply
    from models_mm.mmdet2.recipes import Choices, check_start, decide
    from models_mm.mmdet2.settings import check_settings

    change = {"model.backbone.type": args.backbone} if args.backbone else None
    cfg = load_config(model, change)
    size = args.size and (args.size[0], args.size[-1])
    choices = Choices(
        out=out,
        start=args.start,
        epochs=args.epochs,
        batch=args.batch,
        size=size,
        lr=args.lr,
        patience=args.patience,
        freeze=args.freeze,
        processes=args.gpus or 1,
        seed=args.seed or 0,
    )
    decide(cfg, data, choices, Path(model).stem, decisions)
    if args.cfg_options:
        apply(cfg, args.cfg_options)
        for key in args.cfg_options:
            decisions.say(key.partition(".")[0], f"{key}: --cfg-options")
    check_settings(cfg, ("train", "val", "test"), training=True)
    check_start(cfg)

    title = [
        f"{Path(model).stem} for {args.data}, written by models_mm {__version__}.",
        "This is all of it: no other config is read. Train with it, or go on with --auto-resume:",
        f"  models_mm train {CONFIG}, bash dist_train.sh {CONFIG} GPUS, or slurm_train.sh",
    ]
    text = config_text(cfg, decisions, title)
    config = out / CONFIG
    if config.exists():
        check_same_run(config, text, changed_annotations(data, out))
    write_annotations(data, out)
    write_whole(config, text)
    print(f"written: {config}", flush=True)
    return config


def check_validation(part: "Part") -> None:
    """Refuse images that would end the run at its first evaluation; those of large data are not
    read, which would take minutes.

    Raises:
        UserError: names the first one.
    """
    from models_mm.data.check import HARMLESS
    from models_mm.data.check_labels import check_images

    if len(part.images) > MOST_READ:
        return
    for problem in check_images(part):
        if problem.kind not in HARMLESS:
            raise UserError(
                f"val: {problem.where}: {problem.detail}: replace it, or remove it from the data"
            )


def check_same_run(config: Path, text: str, changed: Path | None) -> None:
    """Refuse another config, or other labels, for a run that has begun.

    Args:
        config: the file, which is there already; before a run it is put aside.
        text: what is to be written.
        changed: annotations that differ from those that are there.

    Raises:
        UserError: the folder has checkpoints of a run with other ones.
    """
    is_other = config.read_text() != text
    if any(config.parent.glob("*.pth")):
        if is_other or changed:
            what = config if is_other else f"{changed}, the labels of that run,"
            raise UserError(
                f"{what} is there already and differs: give another --out, or train with that "
                f"file: models_mm train {config}"
            )
    elif is_other:
        before = config.with_name("config_before.py")
        os.replace(config, before)
        print(f"the config of a run that has not begun is now {before}")


def check_processes(number: int) -> None:
    """Refuse more processes than this machine can have.

    Raises:
        UserError: says how many it can have.
    """
    import torch

    from models_mm.cli.launch import wrong_call

    if wrong := wrong_call(str(number), ["train"], torch.cuda.device_count()):
        raise UserError(f"--gpus: {wrong}")


def default_folder(model: str, data: str, backbone: str | None) -> Path:
    """The work dir that a model and data have by default."""
    source = Path(os.path.abspath(data))
    name = source.parent.name if source.stem == "data" else source.stem
    parts = [Path(model).stem.partition("_fpn_")[0], *([backbone] if backbone else []), name]
    return Path("work_dirs") / "_".join(parts)


def check_folder(out: Path) -> None:
    """Refuse a folder that has other files than those of such a training.

    Raises:
        UserError: it has, or it is a file.
    """
    from models_mm.outputs import refuse_files

    if not (out / CONFIG).is_file():
        refuse_files(out)
