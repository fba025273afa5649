"""Every golden file: keys, shapes, parameter count and features, in float64."""

import json

import pytest
import torch

from .golden import GOLDEN, OF_MMDET, VARIANTS, build, cases, fill_weights, images

NAMES = sorted({path.stem for path in GOLDEN.glob("*.json")} - OF_MMDET)

# Relative to absmax, by family.
TOLERANCES = {"biformer": 1e-12, "dfvt": 1e-12, "mpvit": 1e-12, "recnext": 1e-12}
# An image changed by 1e-15 changes the last map of MobileNetV2 with warehouses by 1e-8.
TOLERANCES |= {"convnext": 1e-12, "kw1x": 1e-7, "kw4x": 1e-8}
DEFAULT_TOLERANCE = 1e-10


@pytest.fixture(scope="module", params=cases(NAMES))
def case(request):
    golden = json.loads((GOLDEN / f"{request.param}.json").read_text())
    return golden, build(request.param).eval()


def test_every_variant_has_golden_values():
    assert set(NAMES) == set(VARIANTS)


def test_state_dict(case):
    golden, model = case
    shapes = {key: list(entry.shape) for key, entry in model.state_dict().items()}
    assert shapes == golden["state_dict"]


def test_parameter_count(case):
    golden, model = case
    assert sum(p.numel() for p in model.parameters()) == golden["parameters"]


def test_features(case):
    golden, model = case
    family = golden["name"].split("_")[0]
    tolerance = TOLERANCES.get(family, DEFAULT_TOLERANCE)
    fill_weights(model)
    for size, levels in golden["eval_outputs"].items():
        with torch.inference_mode():
            outputs = model(images(*map(int, size.split("x"))))
        assert len(outputs) == len(levels)
        for level, (output, expected) in enumerate(zip(outputs, levels, strict=True)):
            assert list(output.shape) == expected["shape"]
            error = (probes(output) - wanted(expected)).abs().max() / expected["absmax"]
            assert error <= tolerance, f"{size}, level {level}: relative error {error:.1e}"


def probes(output):
    flat = output.flatten()
    indices = torch.linspace(0, flat.numel() - 1, 16).round().long()
    return torch.cat([torch.stack([flat.mean(), flat.std(), flat.abs().max()]), flat[indices]])


def wanted(expected):
    summary = [expected["mean"], expected["std"], expected["absmax"]]
    return torch.tensor(summary + expected["samples"], dtype=torch.float64)
