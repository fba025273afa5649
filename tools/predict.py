"""Detect objects in images, folders or videos: pictures, and a JSON file in COCO's form.

python tools/predict.py IMAGES|FOLDER|VIDEO --config CONFIG --checkpoint FILE --out FOLDER
"""

import argparse

import _checkout  # noqa: F401  isort: skip
from models_mm.engine.cli import OVERRIDE_HELP, DictAction, run
from models_mm.engine.predict import predict


def main() -> None:
    """Predict as the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("inputs", nargs="+", help="images, folders of images, videos")
    parser.add_argument("--config", required=True, help="config of the detector")
    parser.add_argument("--checkpoint", required=True, help="its weights")
    parser.add_argument("--out", default="predictions", help="folder (default: %(default)s)")
    parser.add_argument(
        "--score-thr", type=float, default=0.3, help="lowest score (default: %(default)s)"
    )
    parser.add_argument("--batch", type=int, default=1, help="images at a time (%(default)s)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    parser.add_argument("--no-pictures", action="store_true", help="write the JSON file only")
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE", help=OVERRIDE_HELP
    )
    predict(parser.parse_args())


if __name__ == "__main__":
    run(main)
