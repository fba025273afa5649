"""Detection operators through ``mmcv.ops``: the stand-in's always, mmcv-full's where installed."""

import importlib.machinery
import subprocess
import sys
import types

import mmcv.ops
import numpy as np
import pytest
import torch
from mmcv.utils import collect_env
from torch.autograd import gradcheck

from models_mm.mmdet2.compat import operators

from . import oracles

CALLERS = ("nms", "roi_align", "roi_pool", "focal_loss", "deform_conv")
COMPILED = ["mmcv-full"] if operators.in_use() == "mmcv-full" else []


def use_stand_in(monkeypatch):
    for name in CALLERS:  # mmcv.ops.nms, the attribute, is the function
        module = sys.modules[f"mmcv.ops.{name}"]
        monkeypatch.setattr(module, "ext_module", operators.stand_in())


@pytest.fixture
def stand_in(monkeypatch):
    """For operators without a compiled CPU kernel to compare with."""
    use_stand_in(monkeypatch)


@pytest.fixture(params=["torchvision", *COMPILED])
def each(request, monkeypatch):
    """Run ``mmcv.ops`` on one implementation after the other."""
    if request.param == "torchvision":
        use_stand_in(monkeypatch)


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 2, 14, 20, generator=generator, dtype=torch.float64)


# --- NMS


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.7])
@pytest.mark.parametrize("count", [1, 80])
def test_nms(each, count, threshold, offset):
    boxes, scores = oracles.random_boxes(count, seed=count)
    dets, kept = mmcv.ops.nms(boxes, scores, threshold, offset)
    assert kept.tolist() == oracles.nms(boxes, scores, threshold, offset)
    assert torch.equal(dets, torch.cat([boxes, scores[:, None]], 1)[kept])


def test_nms_offset_matters():
    # IoU 9 / 16 by length, 16 / 25 by pixels
    boxes, scores = torch.tensor([[0.0, 0, 4, 4], [0, 0, 3, 3]]), torch.tensor([0.9, 0.8])
    assert mmcv.ops.nms(boxes, scores, 0.6, offset=0)[1].tolist() == [0, 1]
    assert mmcv.ops.nms(boxes, scores, 0.6, offset=1)[1].tolist() == [0]


@pytest.mark.parametrize("part", [1, 2, 3, 4, 6, 7, 9])
def test_nms_keeps_an_iou_equal_to_the_threshold(each, part):
    boxes = torch.tensor([[0.0, 0, 10, 1], [0, 0, part, 1]])
    kept = mmcv.ops.nms(boxes, torch.tensor([0.9, 0.8]), part / 10)[1]
    assert kept.tolist() == [0, 1]


def test_nms_score_threshold_and_max_num(each):
    boxes, scores = oracles.random_boxes(80, seed=1)
    kept = oracles.nms(boxes, scores, 0.4)
    above = [i for i in kept if scores[i] > 0.6]
    assert 3 < len(above) < len(kept)
    assert mmcv.ops.nms(boxes, scores, 0.4, score_threshold=0.6)[1].tolist() == above
    assert mmcv.ops.nms(boxes, scores, 0.4, max_num=3)[1].tolist() == kept[:3]


def test_nms_of_arrays(each):
    boxes, scores = oracles.random_boxes(30, seed=2)
    dets, kept = mmcv.ops.nms(boxes.numpy(), scores.numpy(), 0.5)
    assert isinstance(dets, np.ndarray)
    assert kept.tolist() == oracles.nms(boxes, scores, 0.5)


def test_nothing_in_nothing_out(each):
    boxes, scores = torch.zeros(0, 4), torch.zeros(0)
    for function in (mmcv.ops.nms, mmcv.ops.soft_nms):
        dets, kept = function(boxes, scores, iou_threshold=0.5)
        assert dets.shape == (0, 5)
        assert kept.shape == (0,)
        assert kept.dtype == torch.long


@pytest.mark.parametrize("split_thr", [10000, 10])
def test_batched_nms_separates_classes(each, split_thr):
    boxes, scores = oracles.random_boxes(60, seed=3)
    labels = torch.arange(60) % 3
    expected = []
    for label in range(3):
        members = (labels == label).nonzero().view(-1)
        expected += members[oracles.nms(boxes[members], scores[members], 0.4)].tolist()
    expected.sort(key=lambda i: -scores[i])
    cfg = dict(type="nms", iou_threshold=0.4, split_thr=split_thr)
    dets, kept = mmcv.ops.batched_nms(boxes, scores, labels, cfg)
    assert kept.tolist() == expected
    assert torch.equal(dets, torch.cat([boxes, scores[:, None]], 1)[kept])


def test_batched_nms_over_all_classes(each):
    boxes, scores = oracles.random_boxes(60, seed=3)
    cfg = dict(type="nms", iou_threshold=0.4, class_agnostic=True)
    kept = mmcv.ops.batched_nms(boxes, scores, torch.arange(60) % 3, cfg)[1]
    assert kept.tolist() == oracles.nms(boxes, scores, 0.4)


# --- soft-NMS


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("min_score", [1e-3, 0.2])
@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms(each, method, min_score, offset):
    boxes, scores = oracles.random_boxes(60, seed=4)
    settings = (0.3, 0.5, min_score, method, offset)
    dets, kept = mmcv.ops.soft_nms(boxes, scores, *settings)
    expected, indices = oracles.soft_nms(boxes, scores, *settings)
    assert 5 < len(indices) <= 60
    assert kept.tolist() == indices
    torch.testing.assert_close(dets, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms_order_of_equal_scores(each, method):
    boxes, scores = oracles.random_boxes(60, seed=5)
    scores = (scores * 4).ceil() / 4  # four values only
    settings = (0.3, 0.5, 0.3, method, 0)
    kept = mmcv.ops.soft_nms(boxes, scores, *settings)[1]
    assert kept.tolist() == oracles.soft_nms(boxes, scores, *settings)[1]


def test_soft_nms_naive_is_nms(each):
    boxes, scores = oracles.random_boxes(60, seed=6)
    kept = mmcv.ops.soft_nms(boxes, scores, 0.5, method="naive", min_score=1e-6)[1]
    assert kept.tolist() == oracles.nms(boxes, scores, 0.5)


def test_batched_soft_nms(each):
    boxes, scores = oracles.random_boxes(40, seed=7)
    labels = torch.arange(40) % 2
    cfg = dict(type="soft_nms", iou_threshold=0.3, min_score=0.05)
    dets, kept = mmcv.ops.batched_nms(boxes, scores, labels, cfg)
    assert torch.equal(dets[:, :4], boxes[kept])
    assert (dets[:, 4].diff() <= 0).all()
    for label in range(2):
        members = (labels == label).nonzero().view(-1)
        alone, indices = oracles.soft_nms(
            boxes[members], scores[members], 0.3, 0.5, 0.05, "linear", 0
        )
        mine = labels[kept] == label
        assert kept[mine].tolist() == members[indices].tolist()
        # the IoU of boxes that batched_nms has moved apart by a few hundred pixels
        torch.testing.assert_close(dets[mine, 4], alone[:, 4], rtol=1e-4, atol=0)


# --- RoIAlign and RoIPool


@pytest.mark.parametrize("samples", [0, 2])
@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align(each, images, aligned, samples):
    rois, size = oracles.random_rois(), (3, 2)
    out = mmcv.ops.roi_align(images, rois, size, 0.5, samples, "avg", aligned)
    expected = oracles.roi_align(images, rois, size, 0.5, samples, aligned)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("samples", [0, 2])
@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align_gradient(each, images, aligned, samples):
    small = images[:, :1, :7, :10].contiguous().requires_grad_()
    rois = oracles.random_rois()

    def align(x):
        return mmcv.ops.roi_align(x, rois, (3, 2), 0.25, samples, "avg", aligned)

    assert gradcheck(align, small)


def test_roi_align_layer(each, images):
    rois = oracles.random_rois()
    layer = mmcv.ops.RoIAlign(output_size=2, spatial_scale=0.5, sampling_ratio=2)
    expected = oracles.roi_align(images, rois, (2, 2), 0.5, 2, aligned=True)
    torch.testing.assert_close(layer(images, rois), expected, rtol=1e-10, atol=1e-12)


def test_no_rois(stand_in, images):
    images.requires_grad_()
    for layer in (mmcv.ops.RoIAlign(2, 0.5), mmcv.ops.RoIPool(2, 0.5)):
        out = layer(images, torch.zeros(0, 5, dtype=torch.float64))
        assert out.shape == (0, 2, 2, 2)
        out.sum().backward()
        assert not images.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_roi_layers_in_half_precision(stand_in, images, dtype):
    # RoIs far from the origin, in float32: their fractions must not be lost to the features' dtype
    wide = torch.zeros(1, 2, 4, 3000)
    wide[..., -20:] = images[:1, :, :4].float()
    wide = wide.to(dtype)
    rois = torch.tensor([[0.0, 2980.3, 0.4, 2990.7, 3.6], [0, 2985.4, 1.2, 2997.6, 3.1]])
    for layer in (mmcv.ops.RoIAlign(2, 1.0), mmcv.ops.RoIPool(2, 1.0)):
        leaf = wide.clone().requires_grad_()
        out = layer(leaf, rois)
        assert out.dtype == dtype
        torch.testing.assert_close(out.float(), layer(wide.float(), rois), rtol=1e-2, atol=1e-2)
        out.sum().backward()
        assert leaf.grad.dtype == dtype
        reference = wide.float().requires_grad_()
        layer(reference, rois).sum().backward()
        torch.testing.assert_close(leaf.grad.float(), reference.grad, rtol=1e-2, atol=1e-2)


def test_detector_operators_in_bfloat16(each, images):
    """mmcv's compiled operators are older than bfloat16; under autocast detectors call them so."""
    boxes, scores = torch.tensor([[0.0, 0, 8, 8], [0, 0, 8, 7], [4, 4, 9, 9]]), torch.rand(3)
    expected = mmcv.ops.nms(boxes, scores, 0.5)[1]
    assert torch.equal(mmcv.ops.nms(boxes.bfloat16(), scores.bfloat16(), 0.5)[1], expected)
    leaf = images.bfloat16().requires_grad_()
    out = mmcv.ops.RoIAlign(2, 0.5, 2)(leaf, oracles.random_rois().bfloat16())
    out.sum().backward()
    assert out.dtype == leaf.grad.dtype == torch.bfloat16
    assert leaf.grad.sum() > 0


def test_roi_align_by_maximum_is_refused(stand_in, images):
    with pytest.raises(NotImplementedError, match="pool_mode='max'.*make mmcv-full"):
        mmcv.ops.roi_align(images, oracles.random_rois(), 2, 0.5, 2, "max")


def test_roi_pool(stand_in, images):
    images.requires_grad_()
    rois = oracles.random_rois()
    out = mmcv.ops.RoIPool((3, 2), 0.5)(images, rois)
    expected = oracles.roi_pool(images, rois, (3, 2), 0.5)
    assert torch.equal(out, expected)
    direction = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    gradient = torch.autograd.grad(out, images, direction)[0]
    reference = torch.autograd.grad(expected, images, direction)[0]
    torch.testing.assert_close(gradient, reference, rtol=1e-12, atol=1e-12)


# --- focal loss


def focal_case():
    generator = torch.Generator().manual_seed(8)
    logits = torch.randn(6, 4, generator=generator, dtype=torch.float64) * 4
    # saturated on the right and on the wrong side; label 4 of 4 classes is the background
    logits[0, 0], logits[1, 1], logits[4, 2], logits[5, 3] = 60, -60, 60, -60
    return logits, torch.tensor([0, 1, 2, 3, 4, 4])


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss(stand_in, gamma, weighted, reduction):
    logits, target = focal_case()
    weight = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64) if weighted else None
    reference = logits.clone().requires_grad_()
    expected = oracles.focal_loss(reference, target, gamma, 0.25, weight)
    if reduction != "none":
        expected = expected.sum() / (len(logits) if reduction == "mean" else 1)
    direction = torch.rand(expected.shape, dtype=torch.float64)
    gradient = torch.autograd.grad(expected, reference, direction)[0]
    assert gradient.isfinite().all()

    logits.requires_grad_()
    loss = mmcv.ops.sigmoid_focal_loss(logits, target, gamma, 0.25, weight, reduction)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    loss.backward(direction)
    torch.testing.assert_close(logits.grad, gradient, rtol=1e-10, atol=0)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_loss_of_extreme_logits_in_float32(stand_in, gamma):
    x = torch.tensor([[-60.0, -20, 0, 20, 60]]).T.requires_grad_()
    for label in (0, 1):
        target = torch.full((5,), label)
        loss = mmcv.ops.sigmoid_focal_loss(x, target, gamma, 0.25, None, "none")
        double = x.detach().double().requires_grad_()
        expected = oracles.focal_loss(double, target, gamma, 0.25, None)
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-30)
        gradient = torch.autograd.grad(loss.sum(), x)[0]
        reference = torch.autograd.grad(expected.sum(), double)[0]
        torch.testing.assert_close(gradient.double(), reference, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_focal_loss_in_half_precision(stand_in, dtype):
    logits, target = focal_case()
    low = logits.to(dtype).requires_grad_()
    high = low.detach().double().requires_grad_()
    loss = mmcv.ops.sigmoid_focal_loss(low, target, 2.0, 0.25, None, "none")
    expected = oracles.focal_loss(high, target, 2.0, 0.25, None)
    assert loss.dtype == dtype
    torch.testing.assert_close(loss.double(), expected, rtol=1e-2, atol=1e-6)
    loss.sum().backward()
    expected.sum().backward()
    assert low.grad.dtype == dtype
    torch.testing.assert_close(low.grad.double(), high.grad, rtol=1e-2, atol=1e-6)


def test_focal_loss_layer(stand_in):
    logits, target = focal_case()
    loss = mmcv.ops.SigmoidFocalLoss(gamma=2.0, alpha=0.25)(logits, target)
    expected = oracles.focal_loss(logits, target, 2.0, 0.25, None).sum() / 6
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)


# --- the stand-in itself


def test_absent_operators_fail_when_called(stand_in):
    layer = mmcv.ops.DeformConv2d(2, 2, 3)  # building is fine: a config may never use it
    with pytest.raises(NotImplementedError, match="deform_conv_forward .*`make mmcv-full`"):
        layer(torch.zeros(1, 2, 8, 8), torch.zeros(1, 18, 6, 6))


def test_stand_in_is_an_ordinary_module():
    module = operators.stand_in()
    assert isinstance(module, types.ModuleType)
    assert not hasattr(module, "__path__")  # inspect, pickle and doctest ask for such names
    with pytest.raises(NotImplementedError, match="the operator carafe_forward "):
        module.carafe_forward(1, key=2)


def test_all_of_mmcv_ops_is_importable():
    assert [name for name in mmcv.ops.__all__ if not hasattr(mmcv.ops, name)] == []


def test_environment_report():
    report = collect_env()
    assert report["MMCV Compiler"]
    if operators.in_use() == "torchvision":
        assert report["MMCV Compiler"] == "none (operators from torchvision)"


def test_apply_twice():
    before = sys.modules["mmcv._ext"], operators.in_use()
    operators.apply()
    assert (sys.modules["mmcv._ext"], operators.in_use()) == before


# operators.py alone, beside packages named mmcv that have no, some or unusable operators
SCRIPT = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("operators", sys.argv[1])
operators = importlib.util.module_from_spec(spec)
spec.loader.exec_module(operators)
for folder in sys.argv[2:]:
    sys.path.insert(0, folder)
    try:
        operators.apply()
        module = sys.modules["mmcv._ext"]
        operators.apply()
        import mmcv
        print(operators.in_use(), module is sys.modules["mmcv._ext"] is mmcv._ext)
    except ImportError as error:
        print(error)
    for name in ("mmcv", "mmcv._ext"):
        sys.modules.pop(name, None)
    sys.path_importer_cache.clear()
    del sys.path[0]
"""


def test_compiled_operators_are_preferred_and_must_load(tmp_path):
    broken = "_ext" + importlib.machinery.EXTENSION_SUFFIXES[0]
    cases = {
        "none": {},
        "some": {"_ext.py": b"nms = None"},
        "broken": {broken: b"of another torch"},
    }
    for case, files in cases.items():
        (tmp_path / case / "mmcv").mkdir(parents=True)
        for name, content in {"__init__.py": b"", **files}.items():
            (tmp_path / case / "mmcv" / name).write_bytes(content)
    command = [sys.executable, "-c", SCRIPT, operators.__file__, *(tmp_path / c for c in cases)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    none, some, broken = done.stdout.splitlines()
    assert none == "torchvision True"
    assert some == "mmcv-full True"
    assert broken.startswith("mmcv-full's compiled operators do not load with torch")
    assert "rebuild them with `models_mm setup --mmcv-full`, or go without" in broken
