"""Test a detector, or a file that `models_mm export` has written.

models_mm test CONFIG CHECKPOINT --eval bbox segm
models_mm test detector.onnx --config CONFIG --eval bbox segm
"""

import argparse
import os
import sys

from models_mm.cli.command import KeyValues, Parser, add_job_options, add_providers, parse
from models_mm.deployment.description import is_exported
from models_mm.messages import say
from models_mm.values import SCORE, output_file, output_folder


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The options of mmdet 2.28.2's test.py."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "config", help="config: a file or a name in the catalogue; or an exported detector (.onnx)"
    )
    parser.add_argument("checkpoint", nargs="?", help="checkpoint of that detector")
    parser.add_argument(
        "--config",
        dest="data_config",
        metavar="CONFIG",
        help="for the data of an exported detector",
    )
    add_providers(parser)
    parser.add_argument("--work-dir", help="where the metrics go (work_dirs/<config>)")
    parser.add_argument(
        "--out", type=output_file, metavar="FILE.pkl", help="write the raw results there"
    )
    parser.add_argument(
        "--eval",
        nargs="+",
        metavar="METRIC",
        help="metrics of the data set: bbox segm proposal (COCO), mAP recall (VOC)",
    )
    parser.add_argument(
        "--eval-options",
        nargs="+",
        action=KeyValues,
        metavar="KEY=VALUE",
        help="arguments of the data set's evaluate(), e.g. classwise=True",
    )
    parser.add_argument(
        "--options", nargs="+", action=KeyValues, help="deprecated: use --eval-options"
    )
    parser.add_argument(
        "--format-only",
        action="store_true",
        help="write the results in the data set's format (for a test server), do not evaluate",
    )
    parser.add_argument("--show", action="store_true", help="show each image with its results")
    parser.add_argument(
        "--show-dir", type=output_folder, help="write each image with its results there"
    )
    parser.add_argument(
        "--show-score-thr", type=SCORE, default=0.3, help="lowest score drawn (default: 0.3)"
    )
    parser.add_argument(
        "--fuse-conv-bn", action="store_true", help="fold every norm into its convolution: faster"
    )
    parser.add_argument("--gpu-ids", type=int, nargs="+", help="deprecated: use --gpu-id")
    parser.add_argument(
        "--gpu-id", type=int, default=0, help="GPU of a run without a launcher (default: 0)"
    )
    parser.add_argument(
        "--gpu-collect", action="store_true", help="not needed: results never go through files"
    )
    parser.add_argument("--tmpdir", help="not needed: results never go through files")
    add_job_options(parser)
    args = parse(parser, argv)
    check_args(parser, args)
    return args


def check_args(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse combinations of options that make no sense, before anything is loaded."""
    args.exported = None
    if is_exported(args.config):
        settle_exported(parser, args)
    elif args.checkpoint is None:
        parser.error("the following arguments are required: checkpoint")
    elif args.data_config or args.providers:
        parser.error("--config and --providers are for an exported detector (.onnx)")
    if not (args.out or args.eval or args.format_only or args.show or args.show_dir):
        parser.error("nothing to do: give --eval, --out, --format-only, --show or --show-dir")
    if args.eval and args.format_only:
        parser.error("--eval and --format-only exclude each other")
    if args.out and not args.out.endswith((".pkl", ".pickle")):
        parser.error("--out must end with .pkl")
    if args.options and args.eval_options:
        parser.error("--options is the old name of --eval-options: give one of them")
    args.eval_options = args.eval_options or args.options or {}
    if args.eval_options and not (args.eval or args.format_only):
        parser.error("--eval-options is for --eval or --format-only")
    if (args.show or args.show_dir) and args.launcher != "none":
        if not (args.out or args.eval or args.format_only):
            parser.error("--show and --show-dir need one process: `python tools/test.py` does it")
        say("no pictures: --show and --show-dir need one process; `python tools/test.py` does it")
        args.show, args.show_dir = False, None
    if args.show and not can_show():
        parser.error("--show needs a display, and there is none: use --show-dir DIR")


def settle_exported(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Bring the arguments for an exported detector to the places of the others."""
    if args.checkpoint or not args.data_config:
        parser.error("an exported detector needs --config CONFIG for its data, and no checkpoint")
    if args.show or args.show_dir or args.fuse_conv_bn or args.launcher != "none":
        parser.error(
            "--show, --show-dir, --fuse-conv-bn and --launcher are not for an exported detector"
        )
    for key in args.cfg_options or ():
        if key.startswith(("model", "data.test.pipeline")):
            parser.error(f"--cfg-options {key}: is fixed in {args.config}; export it again")
    args.exported, args.config = args.config, args.data_config
    args.checkpoint = args.exported


def can_show() -> bool:
    """Whether matplotlib, which mmdet shows images with, can open a window here."""
    if sys.platform.startswith("linux"):
        if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            return False
    import matplotlib  # takes half a second

    interactive = matplotlib.rcsetup.interactive_bk
    return matplotlib.get_backend().lower() in {name.lower() for name in interactive}


def main(argv: list[str] | None = None) -> None:
    """Test as the command line says."""
    args = parse_args(argv)
    from models_mm.config_files import path_of
    from models_mm.mmdet2 import testing

    args.config = path_of(args.config)
    testing.run(args)
