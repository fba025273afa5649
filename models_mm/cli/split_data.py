"""Split labelled images into a part for training and a part for validation.

DATA is a JSON file of COCO, a folder in the layout of COCO, YOLO or Pascal VOC, or a data.yaml,
without validation images. Each class gets about the same share in both parts. The images stay where
they are. OUT gets annotations/train.json and annotations/val.json in COCO's format, train.txt and
val.txt with the names of the images, and data.yaml, which is DATA for other commands.
"""

from pathlib import Path

from models_mm.cli.command import Parser, add_data, add_seed
from models_mm.values import number, option, output_folder

SHOWN = 20  # names of images


def main(argv: list[str] | None = None) -> None:
    """Split as the command line says.

    Raises:
        UserError: something is wrong with the data, or OUT cannot be written.
    """
    parser = Parser(description=__doc__)
    add_data(parser)
    parser.add_argument(
        "--val",
        type=option(number(0.001, 0.999)),
        default=0.2,
        metavar="SHARE",
        help="share of the images for validation (default: %(default)s)",
    )
    add_seed(parser, "another split")
    parser.add_argument("--out", required=True, type=output_folder, help="a new folder")
    args = parser.parse_args(argv)

    from models_mm.data.conversion import write_annotations
    from models_mm.data.sources import load_data
    from models_mm.data.split import split
    from models_mm.data.summary import summary
    from models_mm.outputs import refuse_files

    refuse_files(Path(args.out))
    data = split(load_data(args.data, args.images), args.val, args.seed)
    write_annotations(data, args.out)
    for note in data.notes:
        print(f"note: {note}")
    print("\n".join(summary(data)))
    names = [image.name for image in data.parts["val"].images]
    more = f" and {len(names) - SHOWN} more ({args.out}/val.txt)" if len(names) > SHOWN else ""
    print(f"val: {', '.join(names[:SHOWN])}{more}")
    print(f"written: {args.out}/data.yaml")
