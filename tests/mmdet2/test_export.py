"""`models_mm export`: other forms than the plain ONNX file, and what it refuses."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from models_mm.cli import export
from models_mm.deployment.exported import ExportedModel
from models_mm.errors import UserError
from models_mm.mmdet2.export import verify
from models_mm.mmdet2.parity import Difference, Tolerance, compare, differences, named, photos_of
from models_mm.visualization.detections import Detections

from .test_plain_detector import detector


def run(folder: Path, kind: str, *options: str, name: str = "detector.onnx") -> Path:
    """Export a detector."""
    _, weights = detector(folder, kind)
    out = folder / name
    export.main([str(Path(weights).with_suffix(".py")), weights, "--out", str(out), *options])
    return out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("mask", ["--shape", "70", "96", "--max-det", "3", "--opset", "18"]),
        ("mask with soft NMS", ["--to", "pt2"]),
        ("mask", ["--precision", "fp16"]),
    ],
)
def test_other_forms_are_equal(tmp_path, capsys, kind, options):
    pytest.importorskip("onnxscript")
    name = "detector.pt2" if "pt2" in options else "detector.onnx"
    assert run(tmp_path, kind, "--verify", *options, name=name).stat().st_size > 10_000
    objects = re.findall(r"^drawn \S+ +(\d+)", capsys.readouterr().out, re.M)
    assert len(objects) == 4 and all(map(int, objects))
    assert {path.suffix for path in tmp_path.iterdir()} == {".py", ".pth", Path(name).suffix}


@pytest.mark.parametrize(
    ("options", "name", "message"),
    [
        ([], "detector.pt2", "the name must end with .onnx"),
        (
            ["--verify", "nowhere.jpg"],
            "detector.onnx",
            "no such image, folder or video: nowhere.jpg",
        ),
    ],
)
def test_refused(tmp_path, monkeypatch, options, name, message):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: there(name) or "onnx" in name)
    with pytest.raises(UserError, match=message):
        run(tmp_path, "retina", *options, name=name)
    assert not (tmp_path / name).exists()


def test_without_onnx(tmp_path, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxscript" else there(name) or 1
    )
    with pytest.raises(UserError, match="onnxscript is not installed: `pip install onnx "):
        run(tmp_path, "retina")


@pytest.mark.slow
def test_a_file_that_differs_is_not_written(tmp_path, monkeypatch, capsys):
    """The file has other weights than the detector."""
    pytest.importorskip("onnxscript")
    from models_mm.mmdet2 import export as module

    def spoiled(model, *rest):
        model.backbone.stem.stem[0].conv.weight.data.mul_(1.5)
        write(model, *rest)
        model.backbone.stem.stem[0].conv.weight.data.div_(1.5)

    write = module.write_onnx
    monkeypatch.setattr(module, "write_onnx", spoiled)
    with pytest.raises(UserError, match="does not find what the detector finds in . of 4 photos"):
        run(tmp_path, "retina", "--verify")
    assert "unmatched" in capsys.readouterr().out
    assert {path.suffix for path in tmp_path.iterdir()} == {".py", ".pth"}


@pytest.mark.slow
def test_either_form_of_convolutions_counts(tmp_path):
    """The file is compared with PyTorch's other convolutions where its usual ones differ."""
    pytest.importorskip("onnxscript")
    exported = ExportedModel(run(tmp_path, "retina"), ["cpu"])
    own, _ = detector(tmp_path, "retina")
    factors = {True: 1.5, False: 1.0}  # with oneDNN and without it

    def changed(_, inputs, output):
        return tuple(factors[torch._C._get_mkldnn_enabled()] * x for x in output)

    own.model.backbone.register_forward_hook(changed)
    for factors[False], equal in ((1.0, 4), (1.5, 0)):
        rows = [row for photo in photos_of([]) for row in compare(own, exported, [photo])]
        assert sum(row.photo.endswith(" (without oneDNN)") for row in rows) == equal
        assert sum(row.within(Tolerance()) for row in rows) == equal


def test_only_roundings_are_named_so():
    """Boxes that are wrong are wrong, even if PyTorch's two forms find other objects."""
    tolerance, wrong = Tolerance(), Difference("photo", 20, 0, 50.0, 1e-5, 0.9)
    own = wrong._replace(unmatched=2, box=0.02, mask=0.0)
    assert named(wrong, wrong, own, tolerance).photo == "photo"
    rounded = wrong._replace(box=0.015, mask=0.0)
    assert named(rounded, rounded, own, tolerance).photo == "photo (less than PyTorch itself)"


def test_an_object_in_another_place_is_another_one():
    def squares(*sides: float) -> Detections:
        """Objects of the same class and score in the upper left corner."""
        boxes, scores = [[0, 0, side, side] for side in sides], [0.5] * len(sides)
        image, labels = np.zeros((90, 90, 3), np.uint8), np.zeros(len(sides), int)
        return Detections(image, np.float32(boxes), np.float32(scores), labels, None, ("a",))

    row = differences(0.02, squares(40, 80), squares(81, 60), "photo")
    assert (row.objects, row.unmatched, row.box) == (2, 2, 1.0)
    assert not row.within(Tolerance.of("fp16"))


@pytest.mark.slow
def test_a_detector_that_amplifies_roundings_is_named(tmp_path, capsys):
    """PyTorch without oneDNN is farther from the file than PyTorch with it."""
    pytest.importorskip("onnxscript")
    exported = ExportedModel(run(tmp_path, "retina"), ["cpu"])
    own, _ = detector(tmp_path, "retina")

    def changed(_, inputs, output):
        factor = 1.0005 if torch._C._get_mkldnn_enabled() else 0.99
        return tuple(factor * x for x in output)

    own.model.backbone.register_forward_hook(changed)
    with pytest.raises(UserError, match="in 4 of 4 photos.*differs more from itself, with oneDNN"):
        verify(own, exported, photos_of([]))
    assert capsys.readouterr().out.count("(less than PyTorch itself)") == 4
