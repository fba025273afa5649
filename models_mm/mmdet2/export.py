"""Export a detector of MMDetection to one ONNX file, and compare both on photos."""

import argparse
import copy
import hashlib
import importlib.metadata
import importlib.util
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch.fx.experimental import _config as tracing

from models_mm.checkpoints.fetch import fetch
from models_mm.checkpoints.files import is_url
from models_mm.config_files import find_config
from models_mm.deployment.description import KEY, Description, read_description
from models_mm.deployment.exported import ExportedModel
from models_mm.deployment.preprocessing import graph_inputs
from models_mm.deployment.triton import write_repository
from models_mm.errors import UserError
from models_mm.mmdet2.inference import Detector
from models_mm.mmdet2.parity import OWN, Tolerance, compare, photos_of, table
from models_mm.mmdet2.plain_detector import PlainDetector
from models_mm.mmdet2.preparation import preparation
from models_mm.outputs import refuse_files, refuse_input
from models_mm.version import __version__

PACKAGES = ("torch", "torchvision", "onnx", "onnxscript")  # whose versions the file names
ASSERT = torch.ops.aten._assert_scalar.default
INPUTS = ("images", "image_sizes", "original_sizes")


def export(args: argparse.Namespace) -> None:
    """Export as the options of :mod:`models_mm.cli.export` say.

    Raises:
        UserError: a file, a package or the detector is not what it must be, or the exported file
            does not find what the detector finds; then nothing is written.
    """
    out, onnx = Path(args.out), args.to == "onnx"
    if out.suffix != f".{args.to}":
        raise UserError(f"--out {out}: the name must end with .{args.to}")
    for package in ("onnx", "onnxscript", "onnxruntime") if onnx else ():
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"{package} is not installed: `pip install onnx onnxscript onnxruntime`"
            )
    detector = Detector(args.config, args.checkpoint, "cpu", overrides=args.cfg_options)
    refuse_input(out, [find_config(args.config), args.checkpoint])
    if args.triton_repository:
        refuse_files(Path(args.triton_repository) / out.stem)  # before minutes of work
    shape = tuple(args.shape) if args.shape else None
    rule = describe(detector, args.checkpoint, shape, args.max_det, args.precision)
    last_test_cfg(detector.model).max_per_img = rule.max_det
    model = plain_form(detector, rule)
    photos = photos_of(args.verify) if args.verify is not None else []
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.stem[:60]}-") as scratch:
        made = Path(scratch) / out.name
        if onnx:
            write_onnx(model, rule, args.opset, made)
        else:
            program = traced(model, rule)
            with quiet():
                torch.export.save(program, made, extra_files={KEY: rule.text()})
        if photos:
            verify(detector, ExportedModel(made, ["cpu"]) if onnx else TracedModel(made), photos)
        size = made.stat().st_size / 2**20
        os.replace(made, out)
    print(f"{out} ({size:.1f} MB, {len(rule.classes)} classes)")
    if args.triton_repository:
        print(write_repository(Path(args.triton_repository), out))


class TracedModel(ExportedModel):
    """A file of ``torch.export``, run by PyTorch.

    Args:
        file: the file; it must be one's own, because reading it can run code.
    """

    def __init__(self, file: Path):
        metadata = {KEY: ""}
        self.program = torch.export.load(file, extra_files=metadata).module()
        self.description = read_description(metadata, str(file))

    def run(self, photos: list[np.ndarray]) -> dict[str, np.ndarray]:
        inputs = graph_inputs(photos, self.description)
        with torch.no_grad():
            values = self.program(*map(torch.from_numpy, inputs.values()))
        return dict(zip(self.description.outputs, (x.numpy() for x in values), strict=True))


def verify(
    detector: Detector, exported: ExportedModel, photos: list[tuple[str, np.ndarray]]
) -> None:
    """Compare an exported file with the detector, and print how they differ.

    Raises:
        UserError: by more than the tolerance.
    """
    rows = [row for photo in photos for row in compare(detector, exported, [photo])]
    print(table(rows))
    tolerance = Tolerance.of(exported.description.precision)
    wrong = [row.photo for row in rows if not row.within(tolerance)]
    if wrong:
        why = ""
        if all(photo.endswith(OWN) for photo in wrong):
            why = (
                ". PyTorch differs more from itself, with oneDNN and without it: this detector "
                "amplifies roundings. Without --verify the file is written"
            )
        elif exported.description.precision == "fp16":
            why = (
                ". Half precision rounds; what that costs is seen in the AP. Without --verify the "
                "file is written"
            )
        raise UserError(
            f"the exported file does not find what the detector finds in {len(wrong)} of "
            f"{len(rows)} photos, such as {wrong[0].removesuffix(OWN)}: nothing is written{why}"
        )


def describe(
    detector: Detector,
    checkpoint: str,
    shape: tuple[int, int] | None,
    max_det: int | None,
    precision: str,
) -> Description:
    """What the exported file is to say of itself.

    Args:
        detector: in PyTorch.
        checkpoint: the file of its weights.
        shape: height and width of the graph's input; ``None`` leaves them free.
        max_det: rows of the outputs (default: the config's ``max_per_img``).
        precision: fp32 or fp16.

    Raises:
        UserError: the config's test pipeline does something that an exported file cannot, or a
            setting has a value that nobody could read back.
    """
    cfg, model = detector.model.cfg, detector.model
    test_cfg = last_test_cfg(model)
    masked = hasattr(model, "roi_head") and model.roi_head.with_mask
    rule = Description(
        classes=detector.classes,
        shape=shape,
        max_det=max_det or (test_cfg.max_per_img if test_cfg.max_per_img > 0 else 100),
        score_thr=float(test_cfg.score_thr),
        mask_thr=float(test_cfg.mask_thr_binary) if masked else None,
        precision=precision,
        versions={"models_mm": __version__} | versions_of(PACKAGES),
        checkpoint=digest_of(checkpoint),
        config=cfg.pretty_text,
        **preparation(cfg.data.test.pipeline),
    )
    return read_description({KEY: rule.text()}, "the config cannot be exported")


def last_test_cfg(model: torch.nn.Module):
    """The settings by which a detector of mmdet chooses the objects of an image."""
    head = model.roi_head if hasattr(model, "roi_head") else model.bbox_head
    return head.test_cfg


def digest_of(checkpoint: str) -> str:
    """The SHA-256 of a checkpoint; one from the network has been downloaded when it was loaded."""
    path = fetch(checkpoint) if is_url(checkpoint) else Path(checkpoint).expanduser()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def versions_of(packages: tuple[str, ...]) -> dict[str, str]:
    """The versions of the packages that are installed."""
    found = {}
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def plain_form(detector: Detector, rule: Description) -> PlainDetector:
    """The traceable module of a detector."""
    normalisation = dict(mean=rule.mean, std=rule.std, to_rgb=rule.to_rgb)
    half = rule.precision == "fp16"
    model = copy.deepcopy(detector.model) if half else detector.model
    plain = PlainDetector(model, normalisation, rule.divisor, rule.max_det).eval()
    return plain.in_half() if half else plain


def example(rule: Description) -> tuple[torch.Tensor, ...]:
    """Inputs to trace with.

    Free sizes are neither square nor multiples of anything, and padded to a multiple of 32 their
    maps do not consist of whole windows: tracing takes equal numbers for the same number.
    """
    height, width = rule.shape or (475, 795)
    sizes = torch.tensor([[height, width], [height - 1, width - 2]])
    images = torch.zeros(2, 3, height, width, dtype=getattr(torch, rule.dtype))
    return images, sizes, 2 * sizes


def free_dimensions(model: PlainDetector, rule: Description) -> dict:
    """What may change from call to call, for ``torch.export``."""
    batch = torch.export.Dim("batch", min=1)
    # PyTorch must know that no map has a side of 1; ONNX runtimes take smaller images too
    smallest = max(rule.divisor, model.stride) + 1
    sides = (torch.export.Dim(name, min=smallest) for name in ("height", "width"))
    free = dict(enumerate(sides, 2)) if rule.shape is None else {}
    return dict(images={0: batch, **free}, image_sizes={0: batch}, original_sizes={0: batch})


def traced(model: PlainDetector, rule: Description) -> torch.export.ExportedProgram:
    """The detector as a program of torch.export.

    Raises:
        UserError: the installed PyTorch is too old.
    """
    return trace(model, example(rule), free_dimensions(model, rule))


def trace(
    model: torch.nn.Module, inputs: tuple[torch.Tensor, ...], free: dict | tuple
) -> torch.export.ExportedProgram:
    """A module as a program of torch.export.

    Args:
        model: in eval mode.
        inputs: an example.
        free: ``dynamic_shapes`` of torch.export.

    Raises:
        UserError: the installed PyTorch is too old.
    """
    if not hasattr(tracing, "backed_size_oblivious"):
        raise UserError(f"PyTorch {torch.__version__} is too old to export detectors")
    # A number of windows, which depends on the size of the image, may also be 1.
    with torch.no_grad(), quiet(), tracing.patch(backed_size_oblivious=True):
        program = torch.export.export(
            model,
            inputs,
            dynamic_shapes=free,
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    # What PyTorch assumes of sizes, such as that a number of windows is not 1, does not change the
    # graph. The program would refuse images that it can compute.
    for node in program.graph.find_nodes(op="call_function", target=ASSERT):
        program.graph.erase_node(node)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program


def write_onnx(model: PlainDetector, rule: Description, opset: int, file: Path) -> None:
    """Trace a detector and write it with its description."""
    from models_mm.layers.onnx_forms import ONNX_FORMS  # only exporting needs onnxscript

    program = traced(model, rule)
    with quiet(), linear_time():
        converted = torch.onnx.export(
            program,
            input_names=INPUTS,
            output_names=rule.outputs,
            opset_version=opset,
            dynamo=True,
            custom_translation_table=ONNX_FORMS,
            verbose=False,
        )
    converted.model.metadata_props[KEY] = rule.text()
    for node in converted.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces, with the names of this machine's folders
    name_dimensions(converted.model, rule)
    converted.save(file, external_data=False)


def name_dimensions(model, rule: Description) -> None:
    """Give the free dimensions of the inputs and outputs names that a reader understands."""
    images, *sizes = model.graph.inputs
    names = ["batch", 3, *(("height", "width") if rule.shape is None else rule.shape)]
    for value, dims in [(images, names), *[(size, ["batch", 2]) for size in sizes]]:
        for axis, name in enumerate(dims):
            value.shape[axis] = name
    for value in model.graph.outputs:
        value.shape[0] = "batch"


@contextmanager
def linear_time() -> Iterator[None]:
    """Without onnxscript's rule that tries all pairs of nodes: three quarters of BiFormer's time.

    It makes one Split of two Slices, which ONNX Runtime also does.
    """
    from onnxscript import rewriter  # only exporting needs it

    rules = getattr(rewriter, "_DEFAULT_REWRITE_RULES", ())  # another version may lack them
    fast = tuple(rule for rule in rules if rule.name != "SlicesSplit")
    with patch.object(rewriter, "_DEFAULT_REWRITE_RULES", fast, create=True):
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of the exporter, which nobody who exports can act on."""
    logger = logging.getLogger("onnxscript")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
