"""Sums over large maps keep their digits in an exported graph."""

import numpy as np
import pytest
import torch
from torch import nn

from models_mm.layers.warehouse import mean_over
from models_mm.mmdet2.export import trace

pytestmark = pytest.mark.slow


class Pool(nn.Module):
    """The mean of a map over all positions."""

    def forward(self, x):
        return mean_over(x, 2, 3)


def test_the_mean_of_a_large_map(tmp_path):
    """As exact as PyTorch's; one sum over all positions is five times worse."""
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    x = torch.rand(1, 32, 200, 336, generator=torch.Generator().manual_seed(0))
    program = trace(Pool().eval(), (x,), None)
    torch.onnx.export(program, dynamo=True, opset_version=20, verbose=False).save(
        tmp_path / "mean.onnx"
    )
    session = runtime.InferenceSession(tmp_path / "mean.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    expected = x.double().mean((2, 3)).numpy()
    assert np.abs(found - expected).max() < 1.5e-7
    assert np.abs(Pool()(x).numpy() - expected).max() < 1.5e-7
