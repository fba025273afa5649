"""Detect objects in images, folders and videos.

    models_mm predict PATHS --model WORK_DIR --out FOLDER
    models_mm predict PATHS --model detector.onnx --out FOLDER
    models_mm predict PATHS --model WORK_DIR --out FOLDER --format json yolo --classes cat dog
    find photos -name '*.jpg' | models_mm predict - --config CONFIG --checkpoint FILE

The formats: `pictures` with boxes and masks, and videos of them; `json`, a file per image and a
line per frame; `coco`, for pycocotools; `csv`, one table; `yolo`, a file of labels per image. The
default is pictures and predictions.json in COCO's format. `--tile 640` finds small objects in large
photos.
"""

from models_mm.cli.command import Parser, add_overrides, add_providers, require_torch
from models_mm.deployment.description import is_exported
from models_mm.values import SCORE, number, option, output_folder, whole_option

FORMATS = ("pictures", "json", "coco", "csv", "yolo")
OVERLAP = number(0, 0.9)


def main(argv: list[str] | None = None) -> None:
    """Predict as the command line says."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="PATHS",
        help="images, folders of images, videos; `-` reads their paths from standard input",
    )
    parser.add_argument(
        "--model",
        help="work dir of a training, or a checkpoint in it: the best one, or the last; or a file "
        "of `models_mm export` (.onnx)",
    )
    parser.add_argument("--config", help="config of the detector (default: that of --model)")
    parser.add_argument("--checkpoint", help="its weights (default: those of --model)")
    add_providers(parser)
    parser.add_argument(
        "--out", type=output_folder, default="predictions", help="folder (default: %(default)s)"
    )
    parser.add_argument("--format", nargs="+", choices=FORMATS, help="what to write; see above")
    parser.add_argument(
        *("--score", "--score-thr"),
        dest="score_thr",
        metavar="SCORE",
        type=SCORE,
        default=0.3,
        help="lowest score (default: %(default)s)",
    )
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="only these classes")
    parser.add_argument(
        "--tile", type=whole_option(32, 2**14), metavar="PIXELS", help="cut images into tiles"
    )
    parser.add_argument(
        "--overlap",
        type=option(OVERLAP),
        metavar="SHARE",
        help="of neighbouring tiles, as a share of --tile (default: 0.2)",
    )
    parser.add_argument(
        "--annotations",
        metavar="FILE.json",
        help="with --format coco: results.json gets the ids of this file in COCO's format",
    )
    parser.add_argument(
        "--batch",
        type=whole_option(1, 4096),
        default=1,
        help="images or tiles per batch (default: %(default)s)",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    parser.add_argument("--no-pictures", action="store_true", help="write no pictures, no videos")
    add_overrides(parser)
    args = parser.parse_args(argv)
    if is_exported(args.model or ""):
        for name in ("config", "checkpoint", "device", "cfg_options"):
            if getattr(args, name):
                option_name = name.replace("_", "-")
                parser.error(f"--{option_name} is not for an exported detector (--model)")
    else:
        require_torch()
        if args.providers:
            parser.error("--providers is for an exported detector (--model FILE.onnx)")
    if not args.model and not (args.config and args.checkpoint):
        parser.error("give --model WORK_DIR, or --config and --checkpoint")
    if args.model and args.config and args.checkpoint:
        parser.error("--config and --checkpoint leave nothing to take from --model")
    if args.overlap is not None and not args.tile:
        parser.error("--overlap is of tiles: give --tile too")
    args.overlap = 0.2 if args.overlap is None else args.overlap
    if args.annotations and "coco" not in (args.format or ()):
        parser.error("--annotations is for --format coco")
    args.formats = [
        name
        for name in dict.fromkeys(args.format or ("pictures", "predictions"))
        if not (name == "pictures" and args.no_pictures)
    ]
    if not args.formats:
        parser.error("--no-pictures with --format pictures leaves nothing to write")

    from models_mm.prediction import predict

    predict(args)
