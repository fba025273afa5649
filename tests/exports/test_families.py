"""A small network of each family, exported with free sizes, computes the maps that PyTorch does.

By ONNX Runtime, and by PyTorch from a file of torch.export.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models_mm.backbones import REGISTRY
from models_mm.layers.forms import round_up
from models_mm.mmdet2.export import trace

pytestmark = pytest.mark.slow
FAMILIES = {
    "RecNeXt m": ("RecNeXt", dict(series="m", width=8, depths=(1,) * 4, mlp_ratio=1)),
    "RecNeXt a": ("RecNeXt", dict(series="a", width=16, depths=(1,) * 4, mlp_ratio=1)),
    "BiFormer": ("BiFormer", dict(width=32, depths=(1,) * 4)),
    "MPViT": ("MPViT", dict(widths=(16, 24, 32, 40), layers=(1,) * 4, paths=(2,) * 4)),
    "DFvT": ("DFvT", dict(embed_dim=24, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8), mlp_ratio=2)),
    "KW_ConvNeXt": ("KW_ConvNeXt", dict(depths=(1,) * 4, dims=(16, 32, 64, 128))),
}
# Whole windows, none, and maps of a single pixel; batches of one and more
SHAPES = [(1, 3, 256, 512), (2, 3, 77, 131), (3, 3, 224, 160), (1, 3, 33, 45)]


class Padded(nn.Module):
    """A backbone after the padding of a detector."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, x):
        below, right = (round_up(side, 32) - side for side in x.shape[2:])
        return self.backbone(F.pad(x, (0, right, 0, below)))


def small(family: str) -> Padded:
    """A small network of a family."""
    name, arch = FAMILIES[family]
    torch.manual_seed(0)
    model = Padded(REGISTRY[name](arch=arch)).eval()
    for layer in model.modules():
        if hasattr(layer, "running_var"):
            layer.running_var.uniform_(0.5, 2)
            layer.running_mean.normal_(0, 0.1)
    return model


def free_sizes() -> tuple[dict]:
    """The ``dynamic_shapes`` of images."""
    names = [("batch", 1), None, ("height", 33), ("width", 33)]
    dims = {axis: torch.export.Dim(x[0], min=x[1]) for axis, x in enumerate(names) if x}
    return (dims,)


@pytest.mark.parametrize("family", FAMILIES)
def test_maps_are_equal(family, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model = small(family)
    program = trace(model, (torch.randn(2, 3, 475, 795),), free_sizes())
    torch.export.save(program, tmp_path / "backbone.pt2")
    loaded = torch.export.load(tmp_path / "backbone.pt2").module()
    torch.onnx.export(program, dynamo=True, opset_version=20, verbose=False).save(
        tmp_path / "backbone.onnx"
    )
    session = runtime.InferenceSession(tmp_path / "backbone.onnx")
    for shape in SHAPES:
        images = torch.randn(shape)
        with torch.no_grad():
            expected = [x.numpy() for x in model(images)]
            by_pytorch = [x.numpy() for x in loaded(images)]
        by_onnx = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        for ours, *others in zip(expected, by_pytorch, by_onnx, strict=True):
            for theirs in others:
                np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5 * np.abs(ours).max())


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_is_as_exact_as_pytorchs(family):
    model, half = small(family), small(family).half()
    images = torch.randn(3, 3, 224, 160).half()
    program = trace(half, (torch.randn(2, 3, 475, 795).half(),), free_sizes()).module()
    with torch.no_grad():
        exact = model(images.float())
        traced, own = (
            [(a - b).abs().max() / b.abs().max() for a, b in zip(maps, exact, strict=True)]
            for maps in (program(images), half(images))
        )
    assert max(traced) <= 3 * max(own)
