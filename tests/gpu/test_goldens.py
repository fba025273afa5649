"""All variants on a GPU: the golden values in float64, and in float32 without TF32."""

import json

import pytest
import torch

from models_mm.layers.forms import use_forms
from tests.backbones.golden import GOLDEN, build, fill_weights, images
from tests.backbones.test_golden import NAMES, probes, wanted

from .conftest import needs_gpu

pytestmark = needs_gpu

# Relative to absmax. Warehouses with batch norms enlarge rounding: see tests/backbones.
FLOAT64 = 1e-7
FLOAT32 = 2e-3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_features(name, dtype, exact_float32):
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    model = fill_weights(build(name).eval()).to("cuda", dtype)
    kernel = name.startswith("biformer") and dtype == torch.float32
    tolerance = FLOAT64 if dtype == torch.float64 else FLOAT32
    for forms in [{}, {"routing_kernel": True}] if kernel else [{}]:
        for size, levels in golden["eval_outputs"].items():
            with torch.inference_mode(), use_forms(**forms):
                outputs = model(images(*map(int, size.split("x"))).to("cuda", dtype))
            for output, expected in zip(outputs, levels, strict=True):
                found = probes(output.double().cpu())
                error = (found - wanted(expected)).abs().max() / expected["absmax"]
                assert error <= tolerance, f"{size} {forms}: relative error {error:.1e}"
