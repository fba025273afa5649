"""Detect objects in images, folders or videos: pictures, and a JSON file in COCO's form.

models_mm predict IMAGES|FOLDER|VIDEO --config CONFIG --checkpoint FILE --out FOLDER
"""

from models_mm.cli.command import Parser, add_overrides
from models_mm.values import SCORE, output_folder, whole_option


def main(argv: list[str] | None = None) -> None:
    """Predict as the command line says."""
    parser = Parser(description=__doc__)
    parser.add_argument("inputs", nargs="+", help="images, folders of images, videos")
    parser.add_argument("--config", required=True, help="config of the detector")
    parser.add_argument("--checkpoint", required=True, help="its weights")
    parser.add_argument(
        "--out", type=output_folder, default="predictions", help="folder (default: %(default)s)"
    )
    parser.add_argument(
        "--score-thr", type=SCORE, default=0.3, help="lowest score (default: %(default)s)"
    )
    parser.add_argument(
        "--batch",
        type=whole_option(1, 4096),
        default=1,
        help="images per batch (default: %(default)s)",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    parser.add_argument("--no-pictures", action="store_true", help="write the JSON file only")
    add_overrides(parser)
    args = parser.parse_args(argv)

    from models_mm.mmdet2.predict import predict

    predict(args)
