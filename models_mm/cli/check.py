"""Find everything that is wrong with a data set before a training reads it.

``models_mm data check ANNOTATIONS.json IMAGE_FOLDER``, ``models_mm data check FOLDER`` with labels
of COCO, YOLO or Pascal VOC, the same with a ``data.yaml``, or, for the data of a config,
``models_mm data check CONFIG [--split train val]``. Every annotation and every image is
read. The exit code is 1 when something would disturb a training, else 0.
"""

import argparse
import collections
from collections.abc import Iterator
from pathlib import Path

from models_mm.cli.command import KeyValues, Parser
from models_mm.config_files import is_config
from models_mm.errors import UserError
from models_mm.values import whole_option


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; options that do not fit together are refused."""
    parser = Parser(description=__doc__)
    parser.add_argument("source", metavar="ANNOTATIONS.json|FOLDER|data.yaml|CONFIG")
    parser.add_argument("images", nargs="?", default="", help="folder of the images")
    parser.add_argument("--classes", nargs="+", help="names of the classes to train")
    parser.add_argument(
        "--split",
        nargs="+",
        choices=["train", "val", "test"],
        help="of a config (train val)",
    )
    parser.add_argument(
        "--show", type=whole_option(0), default=10, help="findings shown per kind (10)"
    )
    parser.add_argument("--cfg-options", nargs="+", action=KeyValues, metavar="KEY=VALUE")
    parser.add_argument("--masks", action="store_true", help="masks are to be trained")
    args = parser.parse_args(argv)
    if is_config(args.source):
        if args.images or args.classes or args.masks:
            parser.error("a config names images, classes and masks (--cfg-options changes them)")
    elif args.split or args.cfg_options:
        parser.error("--split and --cfg-options are for configs (.py)")
    elif is_data(args.source) and (args.images or args.classes):
        parser.error("the image folder and --classes are for a JSON file")
    return args


def is_data(text: str) -> bool:
    """Whether a text names labels that find their own images."""
    return Path(text).is_dir() or text.lower().endswith((".yaml", ".yml"))


def main(argv: list[str] | None = None) -> None:
    """Check as the command line says.

    Raises:
        SystemExit: with 1, something would disturb a training.
        UserError: no part of the data can be checked.
    """
    args = parse_args(argv)
    from models_mm.data.check import HARMLESS, check_coco
    from models_mm.data.fields import shown

    if is_config(args.source):
        parts = list(of_config(args))
    elif is_data(args.source):
        check_data(args)
        return
    else:
        masks = "pixels" if args.masks else None
        paths = dict(ann_file=args.source, img_prefix=args.images)
        classes = tuple(args.classes) if args.classes else None
        parts = [(args.source, dict(**paths, classes=classes, masks=masks))]
        print_summary(args.source, args.images)
    problems = []
    for name, source in parts:
        if source is None:
            print(f"{shown(name)}: not checked, it is not in COCO's format")
            continue
        print(f"{shown(source['ann_file'])}, {shown(source['img_prefix']) or 'images not read'}")
        found = check_coco(**source)
        report(found, args.show, HARMLESS)
        problems += [problem for problem in found if problem.kind not in HARMLESS]
    if not any(source for _, source in parts):
        raise UserError("nothing was checked: only data sets in COCO's format can be")
    if problems:
        raise SystemExit(1)


def print_summary(source: str, images: str) -> None:
    """Print what is in a JSON file in COCO's format.

    Raises:
        UserError: it is in another format.
    """
    from models_mm.data.formats.coco import read_coco
    from models_mm.data.summary import summary

    data = read_coco(Path(source), {"all": Path(source)}, {"all": Path(images)})
    print("\n".join(summary(data)))


def check_data(args: argparse.Namespace) -> None:
    """Check a folder or a ``data.yaml``, and print what is in it.

    Raises:
        SystemExit: with 1, something would disturb a training.
        UserError: it is of no known format.
    """
    from models_mm.data.check import HARMLESS
    from models_mm.data.check_labels import check_labels
    from models_mm.data.sources import read_data
    from models_mm.data.summary import summary

    data = read_data(args.source)
    print("\n".join(summary(data)))
    for note in data.notes:
        print(f"  note: {note}")
    found = check_labels(data, args.masks)
    report(found, args.show, HARMLESS)
    if any(problem.kind not in HARMLESS for problem in found):
        raise SystemExit(1)


def of_config(args: argparse.Namespace) -> Iterator[tuple[str, dict | None]]:
    """The data sets of a config's splits: what ``coco_sources`` says of each."""
    from models_mm.mmdet2.configs import load_config
    from models_mm.mmdet2.datasets import coco_sources
    from models_mm.mmdet2.settings import check_settings

    cfg = load_config(args.source, args.cfg_options)
    splits = args.split or ["train", "val"]
    for split in splits:
        if not cfg.data.get(split):
            raise UserError(f"--split {split}: the config has no data.{split}")
    check_settings(cfg, splits)
    metrics = (cfg.get("evaluation") or {}).get("metric") or ()
    metrics = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    for split in splits:
        yield from coco_sources(cfg.data[split], split == "train", metrics)


def report(problems: list, shown: int, harmless: set[str]) -> None:
    """Print the findings by kind, the most frequent first; ``shown`` of each kind."""
    kinds = collections.Counter(problem.kind for problem in problems)
    for kind, count in kinds.most_common():
        print(f"  {kind}: {count}{' (harmless)' if kind in harmless else ''}")
        for problem in [p for p in problems if p.kind == kind][:shown]:
            print(f"    {problem.where}: {problem.detail}")
        if count > shown:
            print(f"    ... and {count - shown} more (--show)")
    if not problems:
        print("  nothing wrong")
