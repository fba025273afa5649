"""Soft-NMS of an exported detector is algorithm 1 of its paper, in PyTorch and in ONNX."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models_mm.layers.detection_operators import scores_after_soft_nms

from ..mmdet2.compat import oracles

MOST = 12


class SoftNMS(nn.Module):
    """The operator as a module."""

    def __init__(self, method: str, min_score: float):
        super().__init__()
        self.settings = dict(iou_threshold=0.3, sigma=0.5, min_score=min_score, method=method)

    def forward(self, boxes, scores):
        return scores_after_soft_nms(boxes, scores, **self.settings, most=MOST)


@functools.cache
def by_onnx(method: str, min_score: float):
    """The ONNX form, run by ONNX Runtime."""
    from models_mm.layers.onnx_forms import ONNX_FORMS

    runtime = pytest.importorskip("onnxruntime")
    images, rows = torch.export.Dim("images", min=1), torch.export.Dim("rows", min=1)
    program = torch.onnx.export(
        SoftNMS(method, min_score).eval(),
        (torch.rand(2, 3, 4), torch.rand(2, 3)),
        dynamic_shapes=({0: images, 1: rows}, {0: images, 1: rows}),
        input_names=["boxes", "scores"],
        custom_translation_table=ONNX_FORMS,
        dynamo=True,
        verbose=False,
    )
    session = runtime.InferenceSession(program.model_proto.SerializeToString())
    return lambda *values: session.run(None, dict(zip(("boxes", "scores"), values, strict=True)))[0]


@st.composite
def candidates(draw):
    """Boxes (N, L, 4) and scores (N, L) that differ; some rows are no box, the first a point."""
    images, count = draw(st.integers(1, 3)), draw(st.integers(1, 20))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    corner = rng.uniform(0, draw(st.sampled_from([1, 30, 300])), (images, count, 2))
    size = rng.uniform(1, 60, (images, count, 2))
    size[:, 0] *= draw(st.booleans())
    scores = rng.permuted(np.linspace(1, 0.001, images * count)).reshape(images, count)
    none = rng.random((images, count)) < draw(st.sampled_from([0, 0.3, 1]))
    boxes = np.concatenate([corner, corner + size], 2).astype(np.float32)
    return boxes, np.where(none, -1, scores).astype(np.float32)


@pytest.mark.parametrize("runtime", ["PyTorch", "ONNX"])
@pytest.mark.parametrize(
    ("method", "min_score"), [("linear", 1e-3), ("linear", 0.2), ("gaussian", 0.05)]
)
def test_soft_nms(method, min_score, runtime):
    if runtime == "ONNX":
        pytest.importorskip("onnxscript")
        computed = by_onnx(method, min_score)
    else:
        operator = SoftNMS(method, min_score)
        computed = lambda *values: operator(*map(torch.from_numpy, values)).numpy()  # noqa: E731

    @settings(max_examples=150, deadline=None)
    @given(candidates())
    def check(values):
        found = computed(*values)
        for boxes, scores, taken in zip(*values, found, strict=True):
            able = np.flatnonzero(scores >= 0)
            dets, index = oracles.soft_nms(
                torch.from_numpy(boxes[able]),
                torch.from_numpy(scores[able]),
                *(0.3, 0.5, min_score, method, 0),
            )
            expected = np.full_like(scores, -1)
            expected[able[index[:MOST]]] = dets[:MOST, 4].numpy()
            np.testing.assert_allclose(taken, expected, rtol=1e-5)

    check()
