"""What ``models_mm convert`` does with a checkpoint: inspect, convert, publish, rewrite."""

import argparse
import hashlib
import importlib
import tempfile
from pathlib import Path
from types import ModuleType

from models_mm import host_imports
from models_mm.checkpoints import read_checkpoint, write_checkpoint
from models_mm.checkpoints.convert import convert_mpvit
from models_mm.checkpoints.files import plain
from models_mm.checkpoints.identify import Identity, identify
from models_mm.checkpoints.loading import unwrap
from models_mm.errors import CheckpointError

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
