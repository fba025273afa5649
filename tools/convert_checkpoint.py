"""Rewrite checkpoints so that they load safely.

``rewrite IN OUT`` keeps what a checkpoint is made of - tensors, numbers, strings, lists and
dictionaries - and drops and names everything else. ``--trust`` unpickles the file completely,
which RUNS THE CODE IT BRINGS ALONG: only for files whose origin you trust.
"""

import argparse

import _checkout  # noqa: F401  isort: skip
from models_mm.checkpoints import read_checkpoint, write_checkpoint
from models_mm.checkpoints.files import plain
from models_mm.engine.cli import run


def main() -> None:
    """Convert as the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    rewrite = commands.add_parser("rewrite", help="keep tensors and plain data only")
    rewrite.add_argument("input", metavar="IN", help="checkpoint to read")
    rewrite.add_argument("output", metavar="OUT", help="checkpoint to write")
    rewrite.add_argument(
        "--trust", action="store_true", help="unpickle IN completely; this runs its code"
    )
    args = parser.parse_args()
    checkpoint, dropped = plain(read_checkpoint(args.input, trust=args.trust))
    for path in dropped:
        print(f"dropped {path}")
    write_checkpoint(checkpoint, args.output)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    run(main)
