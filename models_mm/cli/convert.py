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
import hashlib
import importlib
import sys
import tempfile
from pathlib import Path
from types import ModuleType

from models_mm import host_imports
from models_mm.checkpoints import read_checkpoint, write_checkpoint
from models_mm.checkpoints.convert import convert_mpvit
from models_mm.checkpoints.files import plain
from models_mm.checkpoints.identify import Identity, identify
from models_mm.checkpoints.loading import unwrap
from models_mm.cli.command import Parser
from models_mm.config_files import find_config
from models_mm.errors import CheckpointError
from models_mm.outputs import refuse_input
from models_mm.values import output_file

# Commands of earlier versions, of which each took the files of one family and kind only.
FAMILIES = (
    *("biformer", "convnext", "dfvt", "kernelwarehouse"),
    *("mobilenetv2", "mpvit", "recnext", "resnet"),
)
OLD_NAMES = {f"{family}-{kind}" for family in FAMILIES for kind in ("classification", "detection")}
OLD_NAMES -= {"mpvit-detection"}  # those files are detectron2's

SCORES = ("best_score", "max_accuracy", "best_acc")
PROGRESS = ("epoch", "iter", "iteration")


def inspect(args: argparse.Namespace) -> None:
    """Print what a checkpoint is; exit with 1 when it is not completely that."""
    checkpoint, identity = identified(args)
    path, meta = Path(args.input), checkpoint.get("meta") or {}
    facts = {"file": f"{path} ({path.stat().st_size:,} bytes)", "sha256": sha256(path)}
    facts |= {"family": identity.family or "-", "variant": identity.variant or "-"}
    facts |= {"kind": identity.kind, **progress(checkpoint, meta)}
    entries = unwrap(checkpoint, args.input)
    weights = sum(value.numel() for value in entries.values())
    facts["weights"] = f"{len(entries)} entries, {weights / 1e6:.2f} M values"
    others = sorted(str(key) for key in checkpoint if key not in ("state_dict", "model", "meta"))
    if others and len(others) < len(entries):
        facts["beside them"] = ", ".join(others)
    facts["complete"] = "no: " + identity.fault if identity.fault else "yes, it loads strictly"
    if identity.unchecked:
        facts["complete"] = f"its backbone is; not checked: {identity.unchecked}"
    if identity.kind == "detectron2":
        facts["complete"] = "convert it first: convert_checkpoint.py mpvit-detectron2 IN OUT"
    for key, value in facts.items():
        print(f"{key + ':':13}{value}")
    if identity.fault:
        raise SystemExit(1)


def identified(args: argparse.Namespace) -> tuple[dict, Identity]:
    """Read the input, and find out what it is.

    Raises:
        CheckpointError: it cannot be read, or ``--config`` is given for what is no detector.
    """
    checkpoint = read_checkpoint(args.input)
    host = detectors()
    build = host and host.detector_for
    identity = identify(unwrap(checkpoint, args.input), args.input, args.config, build)
    if args.config and identity.kind in ("classification", "backbone", "detectron2"):
        raise CheckpointError(
            f"--config is for detectors, and {args.input} is {described(identity)}"
        )
    return checkpoint, identity


def detectors() -> ModuleType | None:
    """What builds detectors; ``None`` where MMDetection is not installed."""
    try:
        return importlib.import_module("models_mm.mmdet2.detectors")
    except ModuleNotFoundError as error:
        if host_imports.of_host(error):
            return None
        raise


def progress(checkpoint: dict, meta: dict) -> dict:
    """Epoch, iteration and scores that are stored in a file."""
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
    """Write the weights of a published file, of whatever family and kind, as they load here."""
    checkpoint, identity = identified(args)
    if identity.kind == "detectron2":
        convert_detectron2(args)
        return
    complete(identity, args.input)
    if args.check:
        print(f"{args.input} is {described(identity)}, complete\neverything fits; nothing written")
        return
    store(identity, checkpoint, args.output, args.input)
    print(f"wrote {args.output}")


def convert_as(args: argparse.Namespace) -> None:
    """Do what :func:`convert` does, with a file that must be of the command's family and kind."""
    checkpoint, identity = identified(args)
    complete(identity, args.input)
    family, kind = args.command.split("-")
    classification = identity.kind in ("classification", "backbone")
    if identity.family != family or classification != (kind == "classification"):
        raise CheckpointError(f"{args.input} is no {family} {kind} file but {described(identity)}")
    store(identity, checkpoint, args.output, args.input)
    print(f"wrote {args.output}")


def publish(args: argparse.Namespace) -> None:
    """Write the weights only, checked to be complete, under a name that ends in their hash."""
    checkpoint, identity = identified(args)
    complete(identity, args.input)
    output = Path(args.output)
    # not under the name without the hash, which may be another file's
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".publish-") as scratch:
        made = Path(scratch) / output.name
        store(identity, checkpoint, made, args.input)
        final = output.with_name(f"{output.stem}-{sha256(made)[:8]}{output.suffix}")
        made.replace(final)
    print(f"published {final}")


def complete(identity: Identity, path: str) -> None:
    """Check that the weights of an identity are complete.

    Raises:
        CheckpointError: they are not.
    """
    if identity.state is None:
        reason = identity.fault or identity.unchecked or "convert it with mpvit-detectron2 first"
        raise CheckpointError(f"{path} is {described(identity)}: {reason}")


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


def convert_detectron2(args: argparse.Namespace) -> None:
    """Convert MPViT's file of detectron2, print what became of its entries, and write."""
    host = detectors()
    build = host and host.mpvit_detector
    checkpoint, dropped, permuted, remarks = convert_mpvit(args.input, build)
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
    args.act(args)


def make_parser() -> tuple[Parser, set[str]]:
    """The command line, and the names of its commands; those of earlier versions are not listed."""
    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, act, summary: str = "", optional: bool = False, config: bool = False):
        shown = dict(help=summary, description=summary) if summary else {}
        command = commands.add_parser(name, **shown)
        command.add_argument(
            "input", metavar="FILE" if act is inspect else "IN", help="file to read"
        )
        if act is not inspect:
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
    add("convert", convert, summary, optional=True, config=True)
    add("inspect", inspect, "say what a checkpoint is", config=True)
    add("publish", publish, "strip and check a checkpoint, and add its hash", config=True)
    add("rewrite", rewrite, "keep tensors and plain data only")
    for name in sorted(OLD_NAMES):
        add(name, convert_as, config=name.endswith("-detection"))
    add("mpvit-detectron2", convert_detectron2, optional=True)
    return parser, set(commands.choices)


def check_output(parser: Parser, args: argparse.Namespace) -> None:
    """Refuse an output that is missing, useless, or the input itself; make its folder."""
    output = getattr(args, "output", None)
    if args.act in (convert, convert_detectron2):
        if output is None and not args.check:
            parser.error("OUT is missing: where to write (or give --check)")
        if output is not None and args.check:
            parser.error("--check writes nothing: leave OUT or --check out")
    if output:
        if args.act is not publish:  # which adds a hash to the name
            refuse_input(output, [args.input])
        Path(output).parent.mkdir(parents=True, exist_ok=True)
