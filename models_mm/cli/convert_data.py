"""Convert labelled images between the formats of COCO, YOLO and Pascal VOC.

DATA is a JSON file of COCO, a folder in the layout of COCO, YOLO or Pascal VOC, or a data.yaml. OUT
gets labels and copies of the images. Boxes are converted between all formats, and polygons between
COCO and YOLO. What a format cannot hold is printed.
"""

from models_mm.cli.command import Parser, add_data
from models_mm.values import output_folder


def main(argv: list[str] | None = None) -> None:
    """Convert as the command line says.

    Raises:
        UserError: something is wrong with the data, or OUT cannot be written.
    """
    parser = Parser(description=__doc__)
    add_data(parser)
    parser.add_argument("--to", required=True, choices=["coco", "yolo", "voc"], help="the format")
    parser.add_argument("--out", required=True, type=output_folder, help="a new folder")
    parser.add_argument(
        "--link", action="store_true", help="make links to the images instead of copies"
    )
    args = parser.parse_args(argv)

    from models_mm.data.conversion import convert
    from models_mm.data.sources import load_data
    from models_mm.data.summary import summary

    data = load_data(args.data, args.images)
    losses = convert(data, args.to, args.out, args.link)
    for note in data.notes:
        print(f"note: {note}")
    print("\n".join(summary(data)))
    if losses:
        print(f"not held by {args.to.upper()}: {'; '.join(losses)}")
    print(f"written in {args.to.upper()}'s format: {args.out}")
