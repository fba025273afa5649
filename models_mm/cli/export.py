"""Export a detector to one ONNX file, which runs without PyTorch and MMDetection.

    models_mm export CONFIG CHECKPOINT --out detector.onnx --verify
    models_mm export CONFIG CHECKPOINT --out detector.onnx --shape 800 1344

The file takes resized photos and gives boxes, scores, labels and masks; docs/deploy.md describes
its inputs and outputs. `models_mm predict --model detector.onnx` and
`models_mm.Detector("detector.onnx")` run it.
"""

from models_mm.cli.command import Parser, add_overrides
from models_mm.values import output_file, output_folder, whole_option

# ONNX Runtime's RoIAlign for CPUs ends with 21.
OPSETS = (18, 19, 20, 21)


def main(argv: list[str] | None = None) -> None:
    """Export as the command line says."""
    parser = Parser(description=__doc__)
    parser.add_argument("config", help="config of the detector")
    parser.add_argument("checkpoint", help="its weights")
    parser.add_argument("--out", required=True, type=output_file, help="the file to write")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--shape",
        type=whole_option(32, 8192),
        nargs=2,
        metavar=("H", "W"),
        help="one size for all images, which are fitted into it",
    )
    size.add_argument(
        "--dynamic", action="store_true", help="images of all sizes; this is the default"
    )
    parser.add_argument(
        "--max-det",
        type=whole_option(1, 10_000),
        metavar="K",
        help="rows of the outputs, objects of an image at most (default: the config's)",
    )
    parser.add_argument(
        "--opset", type=int, choices=OPSETS, default=20, help="of ONNX (default: %(default)s)"
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16"),
        default="fp32",
        help="of the networks; boxes stay in fp32 (default: %(default)s)",
    )
    parser.add_argument(
        "--verify",
        nargs="*",
        metavar="PHOTOS",
        help="compare the file with the detector on these photos or folders, or on four drawn "
        "ones; if they differ, nothing is written",
    )
    parser.add_argument(
        "--to",
        choices=("onnx", "pt2"),
        default="onnx",
        help="pt2: a program of torch.export, for PyTorch (default: %(default)s)",
    )
    parser.add_argument(
        "--triton-repository",
        type=output_folder,
        metavar="DIR",
        help="also add the file to a model repository of NVIDIA's Triton Inference Server",
    )
    add_overrides(parser)
    args = parser.parse_args(argv)
    if args.triton_repository and args.to != "onnx":
        parser.error("--triton-repository is for ONNX files")

    from models_mm.mmdet2.export import export

    export(args)
