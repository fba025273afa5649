"""Networks on a GPU that is not there: PyTorch follows shapes, devices and number formats only.

This finds tensors that stay on the CPU, values that are read back from the GPU, and results of
another number format. The backward pass would ask for a real GPU.
"""

import copy

import models_mm  # isort: skip
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from models_mm.layers.forms import use_forms
from models_mm.layers.window_attention import window_grid

SMALLEST = ["biformer_s", "dfvt_t", "kw1x_mobilenetv2", "kw1x_resnet50", "mpvit_tiny", "recnext_m3"]
FORMATS = [torch.float32, torch.float16, torch.bfloat16]
GPU = torch.device("cuda:0")
CASES = [
    pytest.param(name, dtype, marks=[] if quick else pytest.mark.slow, id=f"{name}-{dtype}")
    for name in sorted(models_mm.list_backbones())
    for dtype in FORMATS
    for quick in [name in SMALLEST and dtype == torch.bfloat16]
]


@pytest.fixture(autouse=True)
def no_layouts_of_fake_tensors():
    """Windows are laid out once per map size: not for these tests."""
    window_grid.cache_clear()
    yield
    window_grid.cache_clear()


def to_fake_gpu(module: nn.Module, dtype: torch.dtype, mode: FakeTensorMode) -> nn.Module:
    """A copy of a module on a GPU that is not there.

    The module is built on the CPU: random numbers from a normal distribution have values.
    """
    module = copy.deepcopy(module)
    moved = {}

    def fake(value):
        if id(value) not in moved:
            kind = dtype if value.is_floating_point() else value.dtype
            with mode:
                there = torch.empty(value.shape, dtype=kind, device=GPU)
            if isinstance(value, nn.Parameter):
                there = nn.Parameter(there, requires_grad=value.requires_grad)
            moved[id(value)] = there
        return moved[id(value)]

    for part in module.modules():
        for own in (part._parameters, part._buffers):
            own.update({name: fake(value) for name, value in own.items() if value is not None})
    return module


def check_maps(backbone, images, dtype):
    outs = backbone(images)
    height, width = images.shape[2:]
    for out, channels, stride in zip(outs, backbone.out_channels, backbone.strides, strict=True):
        assert out.device == GPU and out.dtype == dtype
        assert out.shape == (len(images), channels, -(-height // stride), -(-width // stride))


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_backbones(name, dtype):
    mode = FakeTensorMode()
    backbone = to_fake_gpu(models_mm.create_backbone(name), dtype, mode)
    with mode:
        images = torch.empty(2, 3, 96, 160, dtype=dtype, device=GPU)
        check_maps(backbone.train(), images, dtype)
        with torch.no_grad():
            check_maps(backbone.eval(), images, dtype)


@pytest.mark.parametrize("name", ["mpvit_tiny", "recnext_m3", "kw1x_mobilenetv2"])
def test_folded_backbones(name):
    made = models_mm.create_backbone(name).eval()
    made.fuse()
    mode = FakeTensorMode()
    backbone = to_fake_gpu(made, torch.float32, mode)
    with mode, torch.no_grad():
        check_maps(backbone, torch.empty(1, 3, 96, 160, device=GPU), torch.float32)


def test_kernels_of_routed_attention():
    pytest.importorskip("triton")
    mode, dtype = FakeTensorMode(), torch.bfloat16
    backbone = to_fake_gpu(models_mm.create_backbone("biformer_s"), dtype, mode)
    with use_forms(routing_kernel=True), mode:
        images = torch.empty(2, 3, 800, 1344, dtype=dtype, device=GPU)
        check_maps(backbone.train(), images, dtype)


def test_a_tensor_on_the_cpu_is_found():
    class Mixed(nn.Module):
        def forward(self, x):
            return x + torch.ones(len(x))

    with FakeTensorMode(), pytest.raises(RuntimeError, match="cuda:0, cpu|cpu, cuda:0|two devices"):
        Mixed()(torch.empty(3, device=GPU))


def test_a_value_that_is_read_back_is_found():
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        torch.empty(3, device=GPU).sum().item()
