"""Published files of BiFormer: which entries are dropped, which are missing, what is refused."""

import models_mm  # isort: skip  # noqa: F401  (before mmdet, which needs it)

import argparse

import pytest
import torch
from mmdet.models import build_backbone

from models_mm.checkpoints import load_pretrained
from models_mm.errors import CheckpointError

DROPPED = {
    "norm.weight": torch.rand(512),
    "norm.bias": torch.rand(512),
    "norm.running_mean": torch.rand(512),
    "norm.running_var": torch.rand(512),
    "norm.num_batches_tracked": torch.tensor(9),
    "head.weight": torch.rand(1000, 512),
    "head.bias": torch.rand(1000),
}
OUTPUT_NORMS = {f"extra_norms.{i}.{kind}" for i in range(4) for kind in ("weight", "bias")}


def other_values(state):
    torch.manual_seed(1)
    return {k: torch.rand(v.shape) if v.is_floating_point() else v + 7 for k, v in state.items()}


@pytest.fixture
def backbone():
    return build_backbone(dict(type="biformer_s"))


@pytest.fixture(scope="module")
def detection():
    """The backbone's entries in a detection file."""
    return other_values(build_backbone(dict(type="biformer_s")).state_dict())


@pytest.fixture(scope="module")
def published(detection):
    """The entries of ``biformer_small_best.pth``."""
    return {k: v for k, v in detection.items() if k not in OUTPUT_NORMS} | DROPPED


@pytest.fixture
def load(backbone, tmp_path):
    """Write a file, load it, return the backbone's state before and after."""

    def call(content):
        path = tmp_path / "file.pth"
        torch.save(content, path)
        load_pretrained(backbone, str(path))
        return backbone.state_dict()

    return call


def test_classification_file(load, published):
    assert len(published) == 518
    state = load({"model": published, "args": argparse.Namespace(lr=1e-3), "max_accuracy": 83.7})
    assert set(state) - set(published) == OUTPUT_NORMS
    assert set(published) - set(state) == set(DROPPED)
    for key, value in state.items():
        if key in OUTPUT_NORMS:
            assert (value == float(key.endswith("weight"))).all()
        else:
            assert torch.equal(value, published[key])


@pytest.mark.parametrize("prefix", ["", "module."])
def test_detection_file(load, detection, prefix):
    assert len(detection) == 519
    entries = {f"{prefix}backbone.{key}": value for key, value in detection.items()}
    entries[f"{prefix}neck.lateral_convs.0.conv.bias"] = torch.zeros(256)
    state = load({"state_dict": entries, "meta": {}})
    assert all(torch.equal(state[key], value) for key, value in detection.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extra_norms.0.weight": torch.zeros(64)}, "7 missing: extra_norms.0.bias"),
        ({"stages.0.0.norm1.weight": None}, "1 missing: stages.0.0.norm1.weight"),
        ({"norm.scale": torch.zeros(512)}, "1 unexpected: norm.scale"),
        ({"stages.3.0.attn.qkv.bias": torch.zeros(1536)}, "1 unexpected: stages.3.0.attn.qkv.bias"),
        ({"stages.0.0.attn.wo.bias": torch.zeros(65)}, "1 of another shape"),
    ],
)
def test_anything_else_is_refused(backbone, load, published, changes, message):
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    entries = {k: v for k, v in (published | changes).items() if v is not None}
    with pytest.raises(CheckpointError, match=message):
        load({"model": entries})
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())


def test_another_variant_is_refused(load):
    other = build_backbone(dict(type="biformer_b")).state_dict()
    with pytest.raises(CheckpointError, match="of another shape"):
        load({"model": other})


def test_init_weights_loads(published, tmp_path):
    torch.save({"model": published}, tmp_path / "small.pth")
    model = build_backbone(dict(type="BiFormer_mm", pretrained=str(tmp_path / "small.pth")))
    model.init_weights()
    key = "stages.2.17.mlp.3.weight"
    assert torch.equal(model.state_dict()[key], published[key])
