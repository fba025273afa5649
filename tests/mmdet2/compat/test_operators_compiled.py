"""The stand-in's operators equal mmcv-full's compiled ones, call by call, in float32."""

import pytest
import torch

from models_mm.mmdet2.compat import operators

from . import oracles

if operators.in_use() != "mmcv-full":
    pytest.skip(
        "mmcv-full's compiled operators are not installed: nothing to compare with",
        allow_module_level=True,
    )

from mmcv import _ext as compiled  # noqa: E402


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.6, 0.7])
@pytest.mark.parametrize("offset", [0, 1])
def test_nms(offset, threshold, seed):
    boxes, scores = oracles.random_boxes(300, seed, size=200)
    boxes = boxes.round() if seed % 2 else boxes  # whole pixels: IoUs equal to the threshold
    args = (boxes, scores, threshold, offset)
    assert operators.nms(*args).tolist() == compiled.nms(*args).tolist()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("method", [0, 1, 2])
@pytest.mark.parametrize("offset", [0, 1])
def test_softnms(offset, method, seed):
    boxes, scores = oracles.random_boxes(300, seed, size=200)
    if seed % 2:  # ties
        boxes, scores = boxes.round(), (scores * 10).ceil() / 10
    results = []
    for implementation in (operators, compiled):
        dets = torch.zeros(300, 5)
        kept = implementation.softnms(boxes, scores, dets, 0.4, 0.5, 0.05, method, offset)
        results.append((dets[: len(kept)], kept.tolist()))
    (mine, indices), (theirs, expected) = results
    assert indices == expected
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=0)


def align(implementation, images, rois, gradient, samples, aligned):
    empty, size = images.new_zeros(0), gradient.shape[2:]
    out, grad_input = torch.zeros_like(gradient), torch.zeros_like(images)
    settings = (*size, 0.25, samples, 1, aligned)
    implementation.roi_align_forward(images, rois, out, empty, empty, *settings)
    implementation.roi_align_backward(gradient, rois, empty, empty, grad_input, *settings)
    return out, grad_input


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("samples", [0, 2])
def test_roi_align(samples, aligned):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 25, 34, generator=generator)
    boxes = oracles.random_boxes(100, seed=0, size=120)[0]
    rois = torch.cat([torch.arange(100)[:, None] % 2, boxes], 1)
    gradient = torch.randn(100, 3, 7, 7, generator=generator)
    mine = align(operators, images, rois, gradient, samples, aligned)
    theirs = align(compiled, images, rois, gradient, samples, aligned)
    for value, expected in zip(mine, theirs, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5 * expected.abs().max())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="mmcv-full's focal loss needs a GPU")
@pytest.mark.parametrize("gamma", [0.5, 2.0])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_focal_loss(direction, gamma):
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(50, 8, generator=generator) * 5).cuda()
    target = (torch.arange(50) % 8).cuda()
    weight = torch.linspace(0.5, 2, 8).cuda()
    results = []
    for implementation in (operators, compiled):
        out = torch.zeros_like(logits)
        function = getattr(implementation, f"sigmoid_focal_loss_{direction}")
        function(logits, target, weight, out, gamma=gamma, alpha=0.25)
        results.append(out)
    # the compiled kernel loses the digits of 1 - p where p is close to 1
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)
