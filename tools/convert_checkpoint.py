"""Rewrite checkpoints so that they load safely, or in MMDetection.

``rewrite IN OUT`` keeps what a checkpoint is made of - tensors, numbers, strings, lists and
dictionaries - and drops and names everything else. ``--trust`` unpickles the file completely,
which RUNS THE CODE IT BRINGS ALONG: only for files whose origin you trust.

``mpvit-detectron2 IN OUT`` converts MPViT's published backbones, RetinaNets and Mask R-CNNs
(``.pth`` or ``.pkl``) for the configs of configs/mpvit. Every entry is used or known to be useless
and every weight of the model filled, or nothing is written. With ``--check`` nothing is written
anyway.
"""

import argparse

import _checkout  # noqa: F401  isort: skip
import models_mm  # noqa: F401  isort: skip  (before mmdet, which does not import without it)
from models_mm.checkpoints import read_checkpoint, write_checkpoint
from models_mm.checkpoints.files import plain
from models_mm.engine.cli import run
from models_mm.engine.convert import convert_mpvit


def rewrite(args: argparse.Namespace) -> None:
    """Keep tensors and plain data only."""
    checkpoint, dropped = plain(read_checkpoint(args.input, trust=args.trust))
    for path in dropped:
        print(f"dropped {path}")
    write_checkpoint(checkpoint, args.output)
    print(f"wrote {args.output}")


def mpvit_detectron2(args: argparse.Namespace) -> None:
    """Convert, tell what happened, and write."""
    checkpoint, dropped, permuted, remarks = convert_mpvit(args.input)
    meta = checkpoint["meta"]
    kind = meta["detector"] or "backbone"
    print(f"{args.input}: {kind} of MPViT {meta['arch']}, {len(checkpoint['state_dict'])} entries")
    for what, keys in (("dropped", dropped), ("anchors permuted in", permuted)):
        for key in keys:
            print(f"{what} {key}")
    for remark in remarks:
        print(f"note: {remark}")
    if args.check:
        print("everything fits; nothing written")
        return
    write_checkpoint(checkpoint, args.output)
    print(f"wrote {args.output}")


def main() -> None:
    """Convert as the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser("rewrite", help="keep tensors and plain data only")
    command.add_argument("input", metavar="IN", help="checkpoint to read")
    command.add_argument("output", metavar="OUT", help="checkpoint to write")
    command.add_argument(
        "--trust", action="store_true", help="unpickle IN completely; this runs its code"
    )
    command.set_defaults(act=rewrite)
    command = commands.add_parser("mpvit-detectron2", help="MPViT's files, for MMDetection")
    command.add_argument("input", metavar="IN", help="checkpoint of detectron2, .pth or .pkl")
    command.add_argument("output", metavar="OUT", nargs="?", help="checkpoint to write")
    command.add_argument("--check", action="store_true", help="convert, but write nothing")
    command.set_defaults(act=mpvit_detectron2)
    args = parser.parse_args()
    if args.output is None and not args.check:
        parser.error("OUT is missing: where to write (or give --check)")
    args.act(args)


if __name__ == "__main__":
    run(main)
