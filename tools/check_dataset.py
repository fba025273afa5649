"""Find all that is wrong with a data set before a training meets it.

``python tools/check_dataset.py ANNOTATIONS.json IMAGE_FOLDER`` or, for the data of a config,
``python tools/check_dataset.py CONFIG [--split train val]``. Reads every annotation and every
image. The exit code is 1 when something would disturb a training, else 0.
"""

import argparse
import collections

import _checkout  # noqa: F401  isort: skip
from models_mm.datasets.check import HARMLESS, check_coco
from models_mm.engine.cli import DictAction, run
from models_mm.engine.configs import data_paths, load_config


def main() -> None:
    """Check as the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="ANNOTATIONS.json|CONFIG")
    parser.add_argument("images", nargs="?", default="", help="folder of the images")
    parser.add_argument("--classes", nargs="+", help="names that are to be trained")
    parser.add_argument("--split", nargs="+", default=["train", "val"], help="of a config's data")
    parser.add_argument("--show", type=int, default=10, help="findings shown of a kind (10)")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE")
    args = parser.parse_args()
    if args.source.endswith(".py"):
        cfg = load_config(args.source, args.cfg_options)
        sources = [source for split in args.split for source in of_config(cfg.data[split])]
    else:
        sources = [(args.source, args.images, args.classes)]
    problems = []
    for ann_file, images, classes in sources:
        print(f"{ann_file}, {images or 'images not read'}")
        found = check_coco(ann_file, images, classes and tuple(classes))
        report(found, args.show)
        problems += [problem for problem in found if problem.kind not in HARMLESS]
    if problems:
        raise SystemExit(1)


def of_config(dataset):
    """Annotations, images and classes of a data set of a config."""
    paths = list(data_paths(dataset))
    annotations = [path for key, path in paths if key == "ann_file"]
    folders = [path for key, path in paths if key == "img_prefix"]
    while "dataset" in dataset:
        dataset = dataset["dataset"]
    for ann_file, images in zip(annotations, folders, strict=True):
        yield ann_file, images, dataset.get("classes")


def report(problems: list, shown: int) -> None:
    """Print the findings by kind, the most frequent first."""
    kinds = collections.Counter(problem.kind for problem in problems)
    for kind, count in kinds.most_common():
        print(f"  {kind}: {count}{' (harmless)' if kind in HARMLESS else ''}")
        for problem in [p for p in problems if p.kind == kind][:shown]:
            print(f"    {problem.where}: {problem.detail}")
        if count > shown:
            print(f"    ... and {count - shown} more (--show)")
    if not problems:
        print("  nothing wrong")


if __name__ == "__main__":
    run(main)
