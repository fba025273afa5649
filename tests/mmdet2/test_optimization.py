"""The kernels of an optimizer: chosen by the device, and kept when a run goes on."""

import models_mm  # noqa: F401  isort: skip
import copy

import pytest
import torch
from torch import nn

from models_mm.errors import UserError
from models_mm.mmdet2 import optimization
from models_mm.mmdet2.optimization import optimizer_of
from models_mm.mmdet2.resuming import load_optimizer


@pytest.mark.parametrize("kind", optimization.FUSED)
@pytest.mark.parametrize(
    ("on_gpu", "given", "fused"),
    [
        (True, {}, True),
        (True, {"fused": False}, False),
        (True, {"fused": True}, True),
        (True, {"foreach": True}, None),
        (False, {}, None),
        (False, {"fused": True}, True),
    ],
)
def test_one_kernel_on_a_gpu_unless_the_config_says_otherwise(
    monkeypatch, kind, on_gpu, given, fused
):
    monkeypatch.setattr(optimization, "on_gpu", lambda model: on_gpu)
    optimizer = optimizer_of(nn.Linear(2, 2), dict(type=kind, lr=0.1, **given))
    assert {group["fused"] for group in optimizer.param_groups} == {fused}


def test_an_optimizer_that_has_no_such_kernel_is_built(monkeypatch):
    monkeypatch.setattr(optimization, "on_gpu", lambda model: True)
    assert optimizer_of(nn.Linear(2, 2), dict(type="RMSprop", lr=0.1))


def test_two_kinds_of_kernels_are_refused():
    settings = dict(type="AdamW", lr=0.1, fused=True, foreach=True)
    with pytest.raises(UserError, match="optimizer cannot be built: AdamW: `fused` and"):
        optimizer_of(nn.Linear(2, 2), settings)


@pytest.mark.parametrize("before", [None, True])
def test_a_run_goes_on_with_the_kernels_of_its_own_device(before):
    """Steps of both kinds are the same but for rounding."""
    torch.manual_seed(0)
    model, x = nn.Linear(3, 3), torch.rand(4, 3)

    def trained(optimizer):
        for _ in range(3):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
        return {name: value.clone() for name, value in model.state_dict().items()}

    first = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.3, fused=before)
    begun = trained(first)
    saved = copy.deepcopy(first.state_dict())
    expected = trained(first)
    model.load_state_dict(begun)
    own = torch.optim.AdamW(model.parameters(), lr=0.5, fused=None if before else True)
    load_optimizer(own, saved)
    (group,) = own.param_groups
    assert group["fused"] is (None if before else True)
    assert group["lr"] == 0.1 and group["weight_decay"] == 0.3
    for name, value in trained(own).items():
        torch.testing.assert_close(value, expected[name])
