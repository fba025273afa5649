"""Train a detector."""

import argparse

from models_mm.cli.command import KeyValues, Parser, add_job_options, parse
from models_mm.values import SEED, option


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The options of mmdet 2.28.2's train.py."""
    parser = Parser(description=__doc__)
    parser.add_argument("config", help="config: a file or a name in the catalogue")
    parser.add_argument("--work-dir", help="where logs and checkpoints go (work_dirs/<config>)")
    parser.add_argument("--resume-from", metavar="FILE", help="checkpoint to continue from")
    parser.add_argument(
        "--auto-resume", action="store_true", help="continue from the newest checkpoint, if any"
    )
    parser.add_argument(
        "--allow-config-changes",
        action="store_true",
        help="go on from a checkpoint whose run had another model, data, optimizer or schedule",
    )
    parser.add_argument(
        "--no-validate", action="store_true", help="do not evaluate during training"
    )
    gpus = parser.add_mutually_exclusive_group()
    gpus.add_argument("--gpus", type=int, help="deprecated: one process uses one GPU")
    gpus.add_argument("--gpu-ids", type=int, nargs="+", help="deprecated: use --gpu-id")
    gpus.add_argument(
        "--gpu-id", type=int, default=0, help="GPU of a run without a launcher (default: 0)"
    )
    parser.add_argument(
        "--seed", type=option(SEED, int), help="random seed (default: drawn, and logged)"
    )
    parser.add_argument(
        "--diff-seed", action="store_true", help="add the rank to the seed, per process"
    )
    parser.add_argument(
        "--deterministic", action="store_true", help="choose GPU kernels that repeat their results"
    )
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate to the real batch size (auto_scale_lr of the config)",
    )
    parser.add_argument(
        "--options", nargs="+", action=KeyValues, help="deprecated: use --cfg-options"
    )
    add_job_options(parser)
    args = parse(parser, argv)
    if args.options and args.cfg_options:
        parser.error("--options is the old name of --cfg-options: give one of them")
    args.cfg_options = args.cfg_options or args.options
    return args


def main(argv: list[str] | None = None) -> None:
    """Train as the command line says."""
    args = parse_args(argv)
    from models_mm.config_files import path_of
    from models_mm.mmdet2 import training

    args.config = path_of(args.config)
    training.run(args)
