"""KernelWarehouse's published files, and those of its plain baselines."""

import models_mm  # isort: skip  # noqa: F401  (before mmdet, which does not import without it)

import json

import pytest
import torch
from mmdet.models import build_backbone, build_detector

from models_mm.checkpoints import load_checkpoint, load_pretrained, read_checkpoint
from models_mm.errors import CheckpointError
from models_mm.mmdet2.configs import load_config

from ..backbones.golden import GOLDEN, fill_weights, images
from ..backbones.test_golden import probes, wanted
from .conftest import assert_same, randomised, snapshot

PLAIN = {
    "mobilenetv2": dict(type="MobileNetV2", out_indices=(1, 2, 4, 7)),
    "resnet50": dict(type="ResNet", depth=50),
}


def entries_of(name: str) -> dict:
    return randomised(build_backbone(dict(type=name)).state_dict(), seed=3)


def published_mobilenetv2() -> dict:
    """The published names and shapes, with the values of the golden rule."""

    class Published(torch.nn.Module):
        def state_dict(self):
            return entries

    golden = json.loads((GOLDEN / "mobilenetv2.json").read_text())
    entries = {
        key: torch.zeros(shape, dtype=torch.long if key.endswith("tracked") else torch.float64)
        for key, shape in golden["state_dict"].items()
    }
    fill_weights(Published())
    return entries


@pytest.mark.parametrize("layout", ["model", "state_dict", "bare"])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone."])
@pytest.mark.parametrize("name", ["kw1x_mobilenetv2", "kw1x_convnext_t"])
def test_detection_backbone(name, layout, prefix, save):
    backbone, entries = build_backbone(dict(type=name)), entries_of(name)
    content = {prefix + key: value for key, value in entries.items()}
    load_pretrained(backbone, save(content if layout == "bare" else {layout: content}))
    assert_same(snapshot(backbone), entries)


@pytest.mark.parametrize("name", ["convnext_t", "kw1x_convnext_t"])
def test_classification_file_of_convnext(name, save):
    backbone, entries = build_backbone(dict(type=name)), entries_of(name)
    outputs = {key for key in entries if key[:5] in ("norm0", "norm1", "norm2", "norm3")}
    assert len(outputs) == 8
    content = {key: value for key, value in entries.items() if key not in outputs}
    content |= {"norm.weight": torch.rand(768), "norm.bias": torch.rand(768)}
    content |= {"head.weight": torch.rand(1000, 768), "head.bias": torch.rand(1000)}
    before = snapshot(backbone)
    load_pretrained(backbone, save({"model": content, "model_ema": {}, "epoch": 299}))
    assert_same(snapshot(backbone), entries | {key: before[key] for key in outputs})
    content["norm2.weight"] = entries["norm2.weight"]  # one output's norm: neither kind of file
    with pytest.raises(CheckpointError, match="7 missing: norm"):
        load_pretrained(backbone, save(content))


def test_another_number_of_classes(save):
    backbone, entries = (
        build_backbone(dict(type="kw1x_mobilenetv2")),
        entries_of("kw1x_mobilenetv2"),
    )
    before = snapshot(backbone)
    entries |= {"classifier.weight": torch.rand(7, 1280), "classifier.bias": torch.rand(7)}
    load_pretrained(backbone, save(entries))
    own = {key: before[key] for key in before if key.startswith("classifier")}
    assert_same(snapshot(backbone), entries | own)


def test_without_a_classifier(save):
    entries = entries_of("kw1x_mobilenetv2")
    backbone = build_backbone(dict(type="kw1x_mobilenetv2", num_classes=None))
    load_pretrained(backbone, save(entries))
    assert_same(snapshot(backbone), {k: v for k, v in entries.items() if k[:10] != "classifier"})


@pytest.mark.parametrize("other", ["kw4x_mobilenetv2"])
def test_other_warehouses(other, save):
    backbone = build_backbone(dict(type="kw1x_mobilenetv2"))
    before = snapshot(backbone)
    with pytest.raises(CheckpointError, match="another cell_num_ratio or sharing_range"):
        load_pretrained(backbone, save(entries_of(other)))
    assert_same(snapshot(backbone), before)


@pytest.mark.parametrize(
    "key", ["features.3.conv.1.0.attention.fc2.bias", "features.3.conv.3.running_var"]
)
def test_missing_key(key, save):
    backbone = build_backbone(dict(type="kw1x_mobilenetv2"))
    entries = entries_of("kw1x_mobilenetv2")
    del entries[key]
    with pytest.raises(CheckpointError, match=f"1 missing: {key}"):
        load_pretrained(backbone, save(entries))


def test_mmdets_mobilenetv2_computes_the_published_one(save):
    """Golden values of the plain network, through the mapping of its keys."""
    backbone = build_backbone(PLAIN["mobilenetv2"]).double()
    backbone.eval()
    load_pretrained(backbone, save({"model": published_mobilenetv2()}))
    golden = json.loads((GOLDEN / "mobilenetv2.json").read_text())
    count = sum(p.numel() for p in backbone.parameters())
    assert count + 1281 * 1000 == golden["parameters"]
    for size, levels in golden["eval_outputs"].items():
        with torch.inference_mode():
            outputs = backbone(images(*map(int, size.split("x"))))
        for output, expected in zip(outputs, levels, strict=True):
            assert list(output.shape) == expected["shape"]
            error = (probes(output) - wanted(expected)).abs().max() / expected["absmax"]
            assert error <= 1e-12


@pytest.mark.parametrize("name", PLAIN)
def test_published_detectors_of_the_plain_rows(name, save):
    """They hold a classifier, MobileNetV2's under torchvision's names; ours load as ever."""
    cfg = load_config(f"configs/kernelwarehouse/faster_rcnn_{name}_fpn_1x_coco.py")
    cfg.model.backbone.init_cfg = None
    detector = build_detector(cfg.model)
    own = randomised(detector.state_dict(), seed=4)
    load_checkpoint(detector, save({"state_dict": own}))
    assert_same(snapshot(detector), own)
    published = {key: value for key, value in own.items() if not key.startswith("backbone.")}
    if name == "resnet50":
        backbone = {key: value for key, value in own.items() if key.startswith("backbone.")}
        published |= backbone
        published |= {"backbone.fc.weight": torch.rand(1000, 2048), "backbone.fc.bias": own_bias()}
        expected = own
    else:
        theirs = published_mobilenetv2()
        published |= {f"backbone.{key}": value.float() for key, value in theirs.items()}
        stem = {"backbone.conv1.conv.weight": theirs["features.0.0.weight"].float()}
        expected = published | stem
    load_checkpoint(detector, save({"state_dict": published}))
    loaded = snapshot(detector)
    if name == "resnet50":
        assert_same(loaded, expected)
    assert torch.equal(
        loaded["backbone.conv1.conv.weight" if name != "resnet50" else "backbone.conv1.weight"],
        expected["backbone.conv1.conv.weight" if name != "resnet50" else "backbone.conv1.weight"],
    )
    broken = {k: v for k, v in published.items() if "layer4.2" not in k and "features.17" not in k}
    with pytest.raises(CheckpointError, match="missing: backbone.layer"):
        load_checkpoint(detector, save({"state_dict": broken}))


def own_bias():
    return torch.rand(1000)


@pytest.mark.parametrize("name", ["kw4x_resnet50_imagenet.pth", "convnext_t_imagenet.pth"])
def test_expected_names_have_an_origin(tmp_path, name):
    with pytest.raises(CheckpointError, match="https://github.com/OSVAI/KernelWarehouse"):
        read_checkpoint(tmp_path / name)
