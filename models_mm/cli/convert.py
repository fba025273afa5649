"""Say what a checkpoint is, convert it, publish it.

    models_mm convert IN OUT            a published file of any family -> weights that load here
    models_mm convert inspect FILE      family, variant, kind, epoch, AP, and whether it is complete
    models_mm convert publish IN OUT    weights only, checked, with a hash in the name
    models_mm convert rewrite IN OUT    keep tensors and plain data, whatever the file is

A published ImageNet file becomes the weights of a backbone, a published detector loses its
optimizer, and MPViT's files of detectron2 (.pth, .pkl) get MMDetection's names. Every entry of the
input is used or known to be useless, and every weight of the model is filled; otherwise nothing is
written. Files ending in .safetensors are read and written too.

Files are read without running what they bring along: objects that are no plain data are left out.
"""

import argparse
import sys
from pathlib import Path

from models_mm.cli.command import Parser
from models_mm.config_files import find_config
from models_mm.outputs import refuse_input
from models_mm.values import output_file

# Commands of earlier versions, of which each took the files of one family and kind only.
FAMILIES = (
    *("biformer", "convnext", "dfvt", "kernelwarehouse"),
    *("mobilenetv2", "mpvit", "recnext", "resnet"),
)
OLD_NAMES = {f"{family}-{kind}" for family in FAMILIES for kind in ("classification", "detection")}
OLD_NAMES -= {"mpvit-detection"}  # those files are detectron2's


def main(argv: list[str] | None = None) -> None:
    """Inspect, convert, publish or rewrite, as the command line says."""
    words = sys.argv[1:] if argv is None else argv
    parser, names = make_parser()
    if len(words) > 1 and words[0] not in names and not words[0].startswith("-"):
        words = ["convert", *words]
    args = parser.parse_args(words)
    check_output(parser, args)
    if args.config:
        find_config(args.config)  # a wrong one is refused even if the file turns out not to need it
    from models_mm.cli import conversions  # imports torch

    getattr(conversions, args.act)(args)


def make_parser() -> tuple[Parser, set[str]]:
    """The command line, and the names of its commands; those of earlier versions are not listed."""
    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, act, summary: str = "", optional: bool = False, config: bool = False):
        shown = dict(help=summary, description=summary) if summary else {}
        command = commands.add_parser(name, **shown)
        command.add_argument(
            "input", metavar="FILE" if act == "inspect" else "IN", help="file to read"
        )
        if act != "inspect":
            command.add_argument(
                "output",
                type=output_file,
                metavar="OUT",
                nargs="?" if optional else None,
                help="checkpoint to write",
            )
        if optional:
            command.add_argument("--check", action="store_true", help="convert, but write nothing")
        if config:
            command.add_argument("--config", help="detector's config, instead of the catalogue's")
        # of earlier versions, which refused objects that are left out now
        command.add_argument("--trust", action="store_true", help=argparse.SUPPRESS)
        command.set_defaults(act=act, config=None, check=False)

    summary = "convert a published file (the word `convert` may be left out)"
    add("convert", "convert", summary, optional=True, config=True)
    add("inspect", "inspect", "say what a checkpoint is", config=True)
    add("publish", "publish", "strip and check a checkpoint, and add its hash", config=True)
    add("rewrite", "rewrite", "keep tensors and plain data only")
    for name in sorted(OLD_NAMES):
        add(name, "convert_as", config=name.endswith("-detection"))
    add("mpvit-detectron2", "convert_detectron2", optional=True)
    return parser, set(commands.choices)


def check_output(parser: Parser, args: argparse.Namespace) -> None:
    """Refuse an output that is missing, useless, or the input itself; make its folder."""
    output = getattr(args, "output", None)
    if args.act in ("convert", "convert_detectron2"):
        if output is None and not args.check:
            parser.error("OUT is missing: where to write (or give --check)")
        if output is not None and args.check:
            parser.error("--check writes nothing: leave OUT or --check out")
    if output:
        if args.act != "publish":  # which adds a hash to the name
            refuse_input(output, [args.input])
        Path(output).parent.mkdir(parents=True, exist_ok=True)
