"""Measure COCO's evaluation: the numbers of each engine, which must be equal, and its time.

    models_mm benchmark-eval                                    # of val2017's size
    models_mm benchmark-eval --ann data/coco/annotations/instances_val2017.json
    models_mm benchmark-eval --images 500 --engines hotcoco pycocotools faster_coco_eval

The truth is drawn at random (crowds included) or read from a file. The detections are the true
boxes, moved, and random ones. "whole" is all of dataset.evaluate() after the last image: results
to COCO's form, matching, accumulation, summary. "matching" leaves out the conversion. "difference"
is the largest difference of the 12 statistics to those of the first engine. The last table has the
time to turn masks into run lengths, by mmdet and by this package, and whether the results agree.
"""

import argparse
import importlib.util
import json
import tempfile
import warnings
from pathlib import Path

from models_mm.cli.command import Parser, add_seed
from models_mm.errors import UserError
from models_mm.values import output_file, whole_option

ENGINES = ("pycocotools", "hotcoco", "faster_coco_eval")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__)
    count = whole_option(1, 1_000_000)
    parser.add_argument("--ann", help="annotation file of the truth (default: drawn)")
    parser.add_argument("--images", type=count, default=5000, help="drawn images (%(default)s)")
    parser.add_argument("--classes", type=count, default=80, help="drawn classes (%(default)s)")
    parser.add_argument("--detections", type=count, default=100, help="per image (%(default)s)")
    parser.add_argument("--metrics", nargs="+", choices=["bbox", "segm"], default=["bbox", "segm"])
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES[:2]))
    add_seed(parser, "other drawn images")
    parser.add_argument(
        "--out", type=output_file, metavar="FILE.json", help="write the figures there too"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Measure and print tables.

    Raises:
        UserError: the numbers of two engines differ, or an engine is not installed.
    """
    args = parse_args(argv)
    missing = [name for name in args.engines if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"not installed: pip install {missing[0].replace('_', '-')}")
    from models_mm.mmdet2.benchmark_eval import measure_masks
    from models_mm.outputs import refuse_input

    warnings.simplefilter("ignore")
    if args.out:
        refuse_input(args.out, [args.ann] if args.ann else [])
    with tempfile.TemporaryDirectory() as folder:
        rows = measure_engines(args, Path(folder))
    show(rows)
    masks = measure_masks(100)
    print(f"\n{'a mask of':10} {'mmdet ms':>10} {'here ms':>10} {'equal':>7}")
    for row in masks:
        print(f"{row['size']:10} {row['mmdet']:10.3f} {row['here']:10.3f} {row['equal']!s:>7}")
    if args.out:
        Path(args.out).write_text(json.dumps(dict(settings=vars(args), rows=rows, masks=masks)))
    worst = max(row["difference"] for row in rows)
    if worst > 1e-12 or not all(row["equal"] for row in masks):
        raise UserError(f"the numbers differ (by {worst:.1e})")


def measure_engines(args: argparse.Namespace, folder: Path) -> list[dict]:
    """Each metric by each engine; a drawn truth is written to a folder."""
    import numpy as np

    from models_mm.data.fields import read
    from models_mm.mmdet2.benchmark_eval import draw_results, draw_truth, loader_of, measure

    rng = np.random.default_rng(args.seed)
    file = args.ann or folder / "truth.json"
    if not args.ann:
        file.write_text(json.dumps(draw_truth(args.images, args.classes, rng)))
    names = [category["name"] for category in read(file)["categories"]]
    dataset_of = loader_of(file, names)
    dataset = dataset_of()
    results = draw_results(dataset, args.detections, rng)
    objects = len(dataset.coco.anns)
    crowds = sum(annotation["iscrowd"] for annotation in dataset.coco.anns.values())
    print(
        f"{len(dataset)} images, {len(names)} classes, {objects} objects ({crowds} crowds), "
        f"{args.detections} detections per image"
    )
    return [
        measure(dataset_of, results, metric, engine)
        for metric in args.metrics
        for engine in args.engines
    ]


def show(rows: list[dict]) -> None:
    """Print the times side by side, with the differences to the first engine of each metric."""
    print(f"{'':22} {'whole s':>9} {'matching s':>11} {'faster':>8} {'AP':>8} {'difference':>11}")
    for row in rows:
        first = next(other for other in rows if other["metric"] == row["metric"])
        pairs = zip(row["statistics"], first["statistics"], strict=True)
        row["difference"] = max(abs(a - b) for a, b in pairs)
        print(
            f"{row['metric']:5}{row['engine']:17} {row['whole']:9.2f} {row['matching']:11.2f} "
            f"{first['whole'] / row['whole']:7.1f}x {row['statistics'][0]:8.4f} "
            f"{row['difference']:11.1e}"
        )
