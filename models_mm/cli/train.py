"""Train a detector, from a config or on labelled images.

models_mm train CONFIG [options]                on the data that the config names
models_mm train MODEL --data DATA [options]     on labelled images, with the recipe of a model

MODEL is a name (`models_mm zoo list --all`) such as mask_rcnn_recnext_m3, a backbone such as
recnext_m3, or a config file; recnext_tiny is for small machines. DATA is a JSON file of COCO, a
folder in the layout of COCO, YOLO or Pascal VOC, or a data.yaml.
"""

import argparse

from models_mm.cli import own_data
from models_mm.cli.command import KeyValues, Parser, add_job_options, parse
from models_mm.cli.own_data import KINDS, SIDE
from models_mm.messages import say
from models_mm.values import SEED, option, output_folder
from models_mm.version import __version__

# What is for `--data` only, and what goes with a config only.
OWN_DATA = ("val", "images", "val_images", "start", "epochs", "batch", "size", "lr", "patience")
OWN_DATA += ("freeze", "out")
CONFIG_ONLY = ("work_dir", "resume_from", "gpu_ids", "no_validate", "auto_scale_lr", "options")
NAMES = {"start": "from"}  # of options that Python has another word for


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The options of mmdet 2.28.2's train.py."""
    parser = Parser(description=__doc__)
    parser.add_argument("config", help="config or model: a file or a name in the catalogue")
    parser.add_argument("--work-dir", help="where logs and checkpoints go (work_dirs/<config>)")
    parser.add_argument("--resume-from", metavar="FILE", help="checkpoint to continue from")
    parser.add_argument(
        "--auto-resume", action="store_true", help="continue from the newest checkpoint, if any"
    )
    parser.add_argument(
        "--allow-config-changes",
        action="store_true",
        help="go on from a checkpoint whose run had another model, data, optimizer or schedule",
    )
    parser.add_argument(
        "--no-validate", action="store_true", help="do not evaluate during training"
    )
    gpus = parser.add_mutually_exclusive_group()
    gpus.add_argument(
        "--gpus", type=int, help="with --data: processes, one per GPU; else deprecated"
    )
    gpus.add_argument("--gpu-ids", type=int, nargs="+", help="deprecated: use --gpu-id")
    gpus.add_argument(
        "--gpu-id", type=int, default=0, help="GPU of a run without a launcher (default: 0)"
    )
    parser.add_argument(
        "--seed", type=option(SEED, int), help="random seed (default: drawn, and logged)"
    )
    parser.add_argument(
        "--diff-seed", action="store_true", help="add the rank to the seed, per process"
    )
    parser.add_argument(
        "--deterministic", action="store_true", help="choose GPU kernels that repeat their results"
    )
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate to the real batch size (auto_scale_lr of the config)",
    )
    parser.add_argument(
        "--options", nargs="+", action=KeyValues, help="deprecated: use --cfg-options"
    )
    parser.add_argument("--default-seed", type=int, help=argparse.SUPPRESS)
    parser.add_argument(
        "--backbone", metavar="NAME", help="another backbone, with its keywords, neck and recipe"
    )
    parser.add_argument(
        "--verbose", action="store_true", help="show the whole log, not progress and a table"
    )
    add_own_data(parser)
    add_job_options(parser)
    args = parse(parser, argv)
    check_own_data(parser, args)
    if args.options and args.cfg_options:
        parser.error("--options is the old name of --cfg-options: give one of them")
    args.cfg_options = args.cfg_options or args.options
    return args


def add_own_data(parser: argparse.ArgumentParser) -> None:
    """The options of a training on labelled images."""
    group = parser.add_argument_group("labelled images (also: --gpus, --seed, --auto-resume)")
    add = group.add_argument
    kinds = {name: option(kind, float if name == "lr" else int) for name, kind in KINDS.items()}
    add("--data", help="the labelled images")
    add("--val", metavar="DATA", help="those for validation (those of --data, or a fifth of them)")
    add("--images", metavar="FOLDER", help="the image folder, if --data is a JSON file")
    add("--val-images", metavar="FOLDER", help="the image folder, if --val is a JSON file")
    add(
        "--from",
        dest="start",
        metavar="FILE",
        help="checkpoint to start from, or scratch (default: what the recipe starts from)",
    )
    add("--epochs", type=kinds["epochs"], help="length of the run (12, and more for few images)")
    add("--batch", type=kinds["batch"], help="images per process and step (2)")
    add(
        "--size",
        type=option(SIDE, int),
        nargs="+",
        metavar="PIXELS",
        help="longer and shorter side of the images, or one number for both (the recipe's)",
    )
    add("--lr", type=kinds["lr"], help="learning rate (the recipe's, scaled)")
    add(
        "--patience",
        type=kinds["patience"],
        metavar="N",
        help="end after N evaluations without a better one (default: do not)",
    )
    add("--freeze", type=kinds["freeze"], metavar="N", help="frozen_stages of the backbone")
    add("--out", type=output_folder, metavar="DIR", help="work_dirs/<model>_<data>")


def check_own_data(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse options that do not go with ``--data``, or without it."""
    given = [name for name in OWN_DATA if getattr(args, name) is not None]
    if args.data is None:
        for name in given:
            parser.error(f"--{NAMES.get(name, name).replace('_', '-')} needs --data")
        return
    for name in CONFIG_ONLY:
        if getattr(args, name):
            instead = {"work_dir": "use --out", "resume_from": "use --auto-resume or --from"}
            reason = instead.get(name, "set it in the config that is written")
            parser.error(f"--{name.replace('_', '-')} does not go with --data: {reason}")
    if args.launcher != "none":
        parser.error("--launcher does not go with --data: --gpus N starts several processes")
    if args.size is not None and len(args.size) > 2:
        parser.error("--size: one or two numbers of pixels")
    if args.gpus is not None and args.gpus < 1:
        parser.error(f"--gpus must be 1 or more, not {args.gpus}")
    args.batch = args.batch or 2


def main(argv: list[str] | None = None) -> None:
    """Train as the command line says."""
    args = parse_args(argv)
    if args.data is not None:
        own_data.main(args)
        return
    say(f"models_mm {__version__}: {args.config}")  # the imports take seconds
    from models_mm.config_files import known_variant, path_of
    from models_mm.mmdet2 import training

    args.config = path_of(args.config)
    if args.backbone is not None:
        change = {"model.backbone.type": known_variant(args.backbone)}
        args.cfg_options = change | (args.cfg_options or {})
    training.run(args)
