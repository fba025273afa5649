"""Draw the training data, with boxes and masks.

``models_mm data browse CONFIG [--out samples.png]`` draws the images as the model sees them: after
all augmentation. ``models_mm data browse DATA [--out FOLDER]`` draws labelled images as they are;
DATA is a JSON file of COCO, a folder in the layout of COCO, YOLO or Pascal VOC, or a data.yaml.
"""

import argparse
from pathlib import Path

from models_mm.cli.command import Parser, add_images, add_overrides, add_seed
from models_mm.values import output_folder, picture_file, whole_option


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line; options that do not fit together are refused."""
    parser = Parser(description=__doc__)
    parser.add_argument("source", metavar="CONFIG|DATA")
    parser.add_argument("--out", help="picture (samples.png) or, of DATA, folder (samples)")
    parser.add_argument(
        "--number",
        type=whole_option(1, 1000),
        help="number of images (4), of DATA in each part (12)",
    )
    parser.add_argument(
        "--draws",
        type=whole_option(1, 1000),
        help="draws of each image (3)",
    )
    add_seed(parser, "other draws or images")
    add_images(parser)
    add_overrides(parser)
    args = parser.parse_args(argv)
    args.is_data = is_data(args.source)
    if args.is_data and (args.draws or args.cfg_options):
        parser.error("--draws and --cfg-options are for configs (.py)")
    if args.images and not args.is_data:
        parser.error("a config names its images (--cfg-options changes them)")
    checked = output_folder if args.is_data else picture_file
    try:
        args.out = checked(args.out or ("samples" if args.is_data else "samples.png"))
    except argparse.ArgumentTypeError as error:
        parser.error(f"argument --out: {error}")
    return args


def is_data(text: str) -> bool:
    """Whether a text names labelled images, and no config."""
    return Path(text).is_dir() or text.lower().endswith((".json", ".yaml", ".yml"))


def main(argv: list[str] | None = None) -> None:
    """Draw as the command line says."""
    args = parse_args(argv)
    if args.is_data:
        browse_labels(args)
    else:
        browse_config(args)


def browse_labels(args: argparse.Namespace) -> None:
    """Draw labelled images as they are."""
    from models_mm.data.sources import load_data
    from models_mm.visualization.labels import draw_labels

    data = load_data(args.source, args.images)
    pictures, unread = draw_labels(data, args.out, args.number or 12, args.seed)
    for note in data.notes:
        print(f"note: {note}")
    for message in unread:
        print(f"not drawn: {message}")
    print(f"{len(pictures)} pictures in {args.out}")


def browse_config(args: argparse.Namespace) -> None:
    """Draw the training data of a config after augmentation."""
    from models_mm.mmdet2.building import build_data
    from models_mm.mmdet2.configs import check_files, load_config
    from models_mm.mmdet2.pictures import draw_samples
    from models_mm.mmdet2.settings import check_settings

    cfg = load_config(args.source, args.cfg_options)
    cfg.model = {}  # no weights are needed
    check_settings(cfg, ("train",))
    check_files(cfg, ("train",))
    dataset = build_data(cfg.data.train, "train")
    print(draw_samples(dataset, args.out, args.number or 4, args.draws or 3, args.seed))
