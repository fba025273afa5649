"""The benchmark's yardsticks compute the same function as the package."""

import torch

from models_mm.backbones import BiFormer

from ..direct.biformer import BiFormer as DirectBiFormer


def results(model, x):
    """Outputs, and the gradients of every parameter."""
    outputs = model(x)
    loss = sum((out * torch.linspace(-1, 2, out.numel()).view_as(out)).sum() for out in outputs)
    return [*outputs, *torch.autograd.grad(loss, list(model.parameters()))]


def test_direct_biformer_is_the_same_function():
    torch.manual_seed(0)
    arch = dict(width=32, depths=(1, 1, 1, 1))
    model, direct = BiFormer(arch).double(), DirectBiFormer(arch).double()
    direct.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 67, 45, dtype=torch.float64)
    for a, e in zip(results(model, x), results(direct, x), strict=True):
        assert (a - e).abs().max() <= 1e-10 * e.abs().max()
