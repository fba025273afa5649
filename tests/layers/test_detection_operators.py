"""Soft-NMS of an exported detector is algorithm 1 of its paper, in PyTorch and in ONNX."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models_mm.layers.detection_operators import scores_after_soft_nms
from models_mm.mmdet2.benchmark import openvino_core

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
def onnx_form(method: str, min_score: float) -> bytes:
    """The ONNX form as a file."""
    from models_mm.layers.onnx_forms import ONNX_FORMS

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
    return program.model_proto.SerializeToString()


def operator(runtime: str, *settings):
    """The operator in PyTorch or its ONNX form, of arrays."""
    if runtime == "PyTorch":
        module = SoftNMS(*settings)
        return lambda *values: module(*map(torch.from_numpy, values)).numpy()
    pytest.importorskip("onnxscript")
    file = onnx_form(*settings)
    if runtime == "ONNX Runtime":
        session = pytest.importorskip("onnxruntime").InferenceSession(file)
        return lambda boxes, scores: session.run(None, {"boxes": boxes, "scores": scores})[0]
    pytest.importorskip("openvino")
    core = openvino_core()
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(file), "CPU", exact)
    return lambda *values: compiled(values)[0]


@st.composite
def candidates(draw, points: bool):
    """Boxes (N, L, 4) and scores (N, L) that differ; some are no box, some equal, some points."""
    images, count = draw(st.integers(1, 3)), draw(st.integers(1, 20))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    corner = rng.uniform(0, draw(st.sampled_from([1, 30, 300])), (images, count, 2))
    size = rng.uniform(1, 60, (images, count, 2))
    size[:, : None if points else 1] *= rng.integers(0, 2, (images, count if points else 1, 1))
    scores = rng.permuted(np.linspace(1, 0.001, images * count)).reshape(images, count)
    none = rng.random((images, count)) < draw(st.sampled_from([0, 0.3, 1]))
    boxes = np.concatenate([corner, corner + size], 2).astype(np.float32)
    if draw(st.booleans()):
        boxes[:, ::2] = boxes[:, -1:]
    return boxes, np.where(none, -1, scores).astype(np.float32)


@pytest.mark.parametrize("runtime", ["PyTorch", "ONNX Runtime", "OpenVINO"])
@pytest.mark.parametrize(
    ("method", "min_score"),
    [("linear", 1e-3), ("linear", 0.2), ("linear", 0.0), ("gaussian", 0.05)],
)
@pytest.mark.filterwarnings("ignore:invalid value")  # the paper's IoU of two points
def test_soft_nms(method, min_score, runtime):
    computed = operator(runtime, method, min_score)

    @settings(max_examples=150, deadline=None)
    @given(candidates(points=method == "linear"))
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
            # of boxes with the score 0, any may be the last one
            np.testing.assert_allclose(taken.clip(0), expected.clip(0), rtol=1e-5, atol=1e-6)
            assert (taken >= 0).sum() == (expected >= 0).sum()

    check()
