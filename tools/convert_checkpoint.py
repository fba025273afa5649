"""Say what a checkpoint is, convert it, publish it.

    inspect FILE                        family, variant, kind, epoch, AP, and whether it is complete
    recnext-classification IN OUT       a published ImageNet file -> a backbone's weights
    recnext-detection IN OUT            a published detector -> the same without optimizer
    mpvit-detectron2 IN OUT             MPViT's detectron2 files (.pth, .pkl) -> MMDetection's
    publish IN OUT                      weights only, checked, with a hash in the name
    rewrite IN OUT                      keep tensors and plain data, whatever the file is

The other families' commands are named alike. Every entry of an input is used or known to be useless
and every weight of the model filled, or nothing is written. Files ending in .safetensors are read
and written too.

Files are read without running what they bring along: objects that are no plain data are left out.
"""

import argparse
import hashlib
import tempfile
from pathlib import Path

import _checkout  # noqa: F401  isort: skip
import models_mm  # noqa: F401  isort: skip  (before mmdet, which does not import without it)
from models_mm.checkpoints import read_checkpoint, write_checkpoint
from models_mm.checkpoints.convert import convert_mpvit
from models_mm.checkpoints.families import FAMILIES
from models_mm.checkpoints.files import plain
from models_mm.checkpoints.identify import Identity, identify, read_config
from models_mm.checkpoints.loading import unwrap
from models_mm.cli.command import Parser, run
from models_mm.errors import CheckpointError
from models_mm.outputs import refuse_input
from models_mm.values import output_file

SCORES = ("best_score", "max_accuracy", "best_acc")
PROGRESS = ("epoch", "iter", "iteration")


def inspect(args: argparse.Namespace) -> None:
    """Print what a checkpoint is; exit with 1 when it is not completely that."""
    checkpoint = read_checkpoint(args.input)
    entries = unwrap(checkpoint, args.input)
    identity = identify(entries, args.input, args.config)
    if args.config and identity.kind in ("classification", "backbone", "detectron2"):
        raise CheckpointError(
            f"--config is for detectors, and {args.input} is {described(identity)}"
        )
    path, meta = Path(args.input), checkpoint.get("meta") or {}
    facts = {"file": f"{path} ({path.stat().st_size:,} bytes)", "sha256": sha256(path)}
    facts |= {"family": identity.family or "-", "variant": identity.variant or "-"}
    facts |= {"kind": identity.kind, **progress(checkpoint, meta)}
    weights = sum(value.numel() for value in entries.values())
    facts["weights"] = f"{len(entries)} entries, {weights / 1e6:.2f} M values"
    others = sorted(str(key) for key in checkpoint if key not in ("state_dict", "model", "meta"))
    if others and len(others) < len(entries):
        facts["beside them"] = ", ".join(others)
    facts["complete"] = "no: " + identity.fault if identity.fault else "yes, it loads strictly"
    if identity.kind == "detectron2":
        facts["complete"] = "convert it first: convert_checkpoint.py mpvit-detectron2 IN OUT"
    for key, value in facts.items():
        print(f"{key + ':':13}{value}")
    if identity.fault:
        raise SystemExit(1)


def progress(checkpoint: dict, meta: dict) -> dict:
    """Epoch, iteration and scores that a file tells of."""
    messages = meta.get("hook_msgs")
    places = (checkpoint, meta, messages if isinstance(messages, dict) else {})
    return {
        key: place[key]
        for place in places
        for key in (*PROGRESS, *SCORES)
        if isinstance(place.get(key), (int, float))
    }


def sha256(path: Path) -> str:
    """Hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def convert(args: argparse.Namespace) -> None:
    """One family's published format, to weights that load here."""
    checkpoint = read_checkpoint(args.input)
    entries = unwrap(checkpoint, args.input)
    identity = complete(identify(entries, args.input, args.config), args.input)
    classification = identity.kind in ("classification", "backbone")
    if identity.family != args.family or classification != (args.kind == "classification"):
        raise CheckpointError(
            f"{args.input} is no {args.family} {args.kind} file but {described(identity)}"
        )
    store(identity, checkpoint, args.output, args.input)
    print(f"wrote {args.output}")


def publish(args: argparse.Namespace) -> None:
    """Weights only, checked to be complete, under a name that ends in their hash."""
    checkpoint = read_checkpoint(args.input)
    identity = identify(unwrap(checkpoint, args.input), args.input, args.config)
    complete(identity, args.input)
    output = Path(args.output)
    # not under the name without the hash, which may be another file's
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".publish-") as scratch:
        made = Path(scratch) / output.name
        store(identity, checkpoint, made, args.input)
        final = output.with_name(f"{output.stem}-{sha256(made)[:8]}{output.suffix}")
        made.replace(final)
    print(f"published {final}")


def complete(identity: Identity, path: str) -> Identity:
    """An identity whose weights are complete.

    Raises:
        CheckpointError: they are not.
    """
    if identity.state is None:
        reason = identity.fault or "convert it with mpvit-detectron2 first"
        raise CheckpointError(f"{path} is {described(identity)}: {reason}")
    return identity


def described(identity: Identity) -> str:
    """An identity in words."""
    return f"{identity.variant} ({identity.kind})" if identity.variant else identity.kind


def store(identity: Identity, checkpoint: dict, output: str | Path, source: str) -> None:
    """Write an identity's model, and the plain part of the meta."""
    meta, _ = plain(checkpoint.get("meta") or {})
    meta |= {"variant": identity.variant, "kind": identity.kind, "converted_from": str(source)}
    write_checkpoint({"meta": meta, "state_dict": identity.state}, output)
    print(f"{source} is {described(identity)}, complete")


def rewrite(args: argparse.Namespace) -> None:
    """Keep tensors and plain data only."""
    checkpoint, dropped = plain(read_checkpoint(args.input))
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
    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, act, summary: str, output: bool = True, **defaults):
        command = commands.add_parser(name, help=summary, description=summary)
        command.add_argument("input", metavar="IN" if output else "FILE", help="file to read")
        if output:
            command.add_argument(
                "output", type=output_file, metavar="OUT", help="checkpoint to write"
            )
        # of earlier versions, which refused what is left out now
        command.add_argument("--trust", action="store_true", help=argparse.SUPPRESS)
        command.set_defaults(act=act, config=None, **defaults)
        return command

    config = dict(help="the detector's config, instead of the catalogue's")
    add("inspect", inspect, "say what a checkpoint is", output=False).add_argument(
        "--config", **config
    )
    for family in FAMILIES:
        for kind in ("classification", "detection"):
            if (family.name, kind) == ("mpvit", "detection"):
                continue  # they are detectron2's
            summary = f"{family.name}'s published {kind} files, checked, weights only"
            command = add(f"{family.name}-{kind}", convert, summary, family=family.name, kind=kind)
            if kind == "detection":
                command.add_argument("--config", **config)
    command = commands.add_parser("mpvit-detectron2", help="MPViT's files, for MMDetection")
    command.add_argument("input", metavar="IN", help="checkpoint of detectron2, .pth or .pkl")
    command.add_argument(
        "output", type=output_file, metavar="OUT", nargs="?", help="checkpoint to write"
    )
    command.add_argument("--check", action="store_true", help="convert, but write nothing")
    command.set_defaults(act=mpvit_detectron2, config=None)
    add("publish", publish, "strip and check a checkpoint, and add its hash").add_argument(
        "--config", **config
    )
    add("rewrite", rewrite, "keep tensors and plain data only")
    args = parser.parse_args()
    if args.command == "mpvit-detectron2" and args.output is None and not args.check:
        parser.error("OUT is missing: where to write (or give --check)")
    if args.command not in ("inspect", "publish") and args.output:
        refuse_input(args.output, [args.input])
    if args.command == "mpvit-detectron2" and args.output is not None and args.check:
        parser.error("--check writes nothing: leave OUT or --check out")
    if getattr(args, "output", None):
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    if args.config:
        read_config(args.config)  # what it describes may turn out not to be asked
    args.act(args)


if __name__ == "__main__":
    run(main)
