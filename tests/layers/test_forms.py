"""The faster forms of operators compute what the plain forms do."""

import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import models_mm
from models_mm.layers.forms import RULES, use_forms

# A backbone that each rule decides something for, and whether in training too.
USED_BY = {
    "traceable": ("biformer_s", False),
    "fastest_layout": ("recnext_m3", True),
    "linear_as_convolution": ("mpvit_tiny", True),
    "onednn_product": ("kw1x_mobilenetv2", True),
    "separate_projections": ("mpvit_tiny", True),
    "mlp_rows": ("mpvit_tiny", False),
}


class Operators(TorchDispatchMode):
    """Writes down the operators that run, with the layouts of their results."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.seen.append((str(func), out.stride() if isinstance(out, torch.Tensor) else None))
        return out


def test_every_rule_is_tested():
    # test_routing_kernels.py tests the one that is for GPUs only
    assert USED_BY.keys() | {"routing_kernel"} == RULES.keys()


def test_forms_are_switched_by_the_environment(run_tool):
    ask = "from models_mm.layers.forms import RULES; print(RULES['routing_kernel'])"
    assert run_tool(sys.executable, "-c", ask, MODELS_MM_FORMS="routing_kernel").stdout == "True\n"
    assert run_tool(sys.executable, "-c", ask, MODELS_MM_FORMS="").stdout == "False\n"
    done = run_tool("tools/benchmark.py", "recnext_m3", MODELS_MM_FORMS="routing_kernels")
    assert done.returncode and "did you mean routing_kernel?" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("rule", USED_BY)
def test_inference_is_that_of_the_plain_form(rule):
    torch.manual_seed(0)
    model = models_mm.create_backbone(USED_BY[rule][0]).eval()
    model.fuse()
    images = torch.randn(2, 3, 96, 128)
    with torch.no_grad():
        with Operators() as fast:
            outs = model(images)
        with use_forms(**{rule: False}), Operators() as plain:
            expected = model(images)
    assert fast.seen != plain.seen
    for out, other in zip(outs, expected, strict=True):
        torch.testing.assert_close(out, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", [name for name, (_, trained) in USED_BY.items() if trained])
def test_gradients_are_those_of_the_plain_form(rule):
    torch.manual_seed(0)
    # batch norms with fixed statistics: those of few pixels would magnify rounding
    model = models_mm.create_backbone(USED_BY[rule][0]).eval()
    images = torch.randn(2, 3, 96, 128)
    weights = [torch.randn_like(out) for out in model(images)]

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        sum((out * w).mean() for out, w in zip(model(images), weights, strict=True)).backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    found = gradients()
    with use_forms(**{rule: False}):
        expected = gradients()
    assert len(found) == len(expected) > 0
    for gradient, other in zip(found, expected, strict=True):
        assert (gradient - other).norm() <= 1e-4 * other.norm()


@pytest.mark.parametrize("name", ["dfvt_t", "mpvit_tiny"])
def test_the_traceable_form_takes_all_sizes(name):
    torch.manual_seed(0)
    model = models_mm.create_backbone(name).eval().fuse()
    images = torch.randn(2, 3, 70, 107)
    with torch.no_grad(), use_forms(traceable=False):
        outs = model(images)
    with torch.no_grad():
        for out, other in zip(outs, model(images), strict=True):
            torch.testing.assert_close(out, other, rtol=1e-4, atol=1e-4)
