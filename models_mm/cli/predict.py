"""Detect objects in images, folders or videos: pictures, and a JSON file in COCO's form.

models_mm predict IMAGES|FOLDER|VIDEO --config CONFIG --checkpoint FILE --out FOLDER
models_mm predict IMAGES|FOLDER|VIDEO --model detector.onnx --out FOLDER
"""

from models_mm.cli.command import Parser, add_overrides, add_providers, require_torch
from models_mm.values import SCORE, output_folder, whole_option


def main(argv: list[str] | None = None) -> None:
    """Predict as the command line says."""
    parser = Parser(description=__doc__)
    parser.add_argument("inputs", nargs="+", help="images, folders of images, videos")
    parser.add_argument("--model", help="a detector that `models_mm export` has written")
    parser.add_argument("--config", help="config of the detector")
    parser.add_argument("--checkpoint", help="its weights")
    add_providers(parser)
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
    of_config = (args.config, args.checkpoint)
    if bool(args.model) == any(of_config) or any(of_config) != all(of_config):
        parser.error("give either --model, or --config and --checkpoint")
    if args.model and not args.model.endswith(".onnx"):
        parser.error(f"--model {args.model}: must end with .onnx")
    for name in ("device", "cfg_options"):
        if args.model and getattr(args, name):
            parser.error(f"--{name.replace('_', '-')} is not for an exported detector (--model)")
    if args.providers and not args.model:
        parser.error("--providers is for an exported detector (--model)")
    if not args.model:
        require_torch()

    from models_mm.prediction import predict

    predict(args)
