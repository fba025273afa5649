"""Starting a backbone from a published file, and refusing every other file."""

import pytest
import torch
import torchvision
from mmdet.models import build_backbone
from torch import nn

from models_mm.checkpoints import load_pretrained
from models_mm.errors import CheckpointError

from .conftest import assert_same, head_entries, randomised, snapshot


@pytest.fixture
def backbone():
    return build_backbone(dict(type="recnext_m3"))


def without_heads(entries):
    return {key: value for key, value in entries.items() if not key.startswith("head.")}


def assert_refused(backbone, path, *patterns, **kwargs):
    before = snapshot(backbone)
    with pytest.raises(CheckpointError) as error:
        load_pretrained(backbone, path, **kwargs)
    for pattern in (path, *patterns):
        assert pattern in str(error.value)
    assert_same(backbone.state_dict(), before)


def test_the_published_file_has_the_published_number_of_entries(published):
    assert len(published) == 531


@pytest.mark.parametrize("layout", ["model", "state_dict", "bare", "with training state"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_layout(backbone, published, save, layout, prefix):
    entries = {prefix + key: value for key, value in published.items()}
    content = {
        "model": {"model": entries},
        "state_dict": {"state_dict": entries, "meta": {}},
        "bare": entries,
        "with training state": {"model": entries, "optimizer": {"state": {}}, "epoch": 299},
    }[layout]
    load_pretrained(backbone, save(content))
    assert_same(backbone.state_dict(), without_heads(published))


def test_file_without_heads(backbone, published, save):
    load_pretrained(backbone, save({"model": without_heads(published)}))
    assert_same(backbone.state_dict(), without_heads(published))


def test_half_precision_file(backbone, published, save):
    half = {k: v.half() if v.is_floating_point() else v for k, v in published.items()}
    load_pretrained(backbone, save({"model": half}))
    expected = {k: half[k].to(v.dtype) for k, v in without_heads(published).items()}
    assert_same(backbone.state_dict(), expected)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_detection_file(backbone, detector_state, save, prefix):
    content = {"state_dict": {prefix + k: v for k, v in detector_state.items()}, "meta": {}}
    load_pretrained(backbone, save(content))
    own = {k[9:]: v for k, v in detector_state.items() if k.startswith("backbone.")}
    assert_same(backbone.state_dict(), own)


@pytest.mark.parametrize("prefix", ["student.net", "student.net."])
def test_part_of_a_file_by_prefix(backbone, published, save, prefix):
    entries = {f"student.net.{key}": value for key, value in without_heads(published).items()}
    path = save({"model": entries | {"teacher.weight": torch.zeros(2)}})
    load_pretrained(backbone, path, prefix=prefix)
    assert_same(backbone.state_dict(), without_heads(published))


def test_prefix_that_is_not_there(backbone, published, save):
    path = save({"model": published})
    assert_refused(backbone, path, "has no entry below 'encoder.'", prefix="encoder")


def test_what_is_left_out_is_logged(backbone, published, save, caplog):
    path = save({"model": published})
    load_pretrained(backbone, path)
    assert f"loaded {path} without head.head.norm.weight, " in caplog.text
    assert " and 10 more" in caplog.text


KEY = "stages.1.blocks.0.token_mixer.down.weight"


def test_extra_key(backbone, published, save):
    path = save({"model": published | {"stages.4.norm.weight": torch.zeros(2)}})
    assert_refused(backbone, path, "recnext_m3", "1 unexpected: stages.4.norm.weight")


@pytest.mark.parametrize(
    "key", ["head.head.norm.scale", "head.classifier.weight", "xhead.head.linear.bias"]
)
def test_only_the_known_heads_are_left_out(backbone, published, save, key):
    path = save({"model": published | {key: torch.zeros(2)}})
    assert_refused(backbone, path, f"1 unexpected: {key}")


def test_missing_key(backbone, published, save):
    path = save({"model": {k: v for k, v in published.items() if k != KEY}})
    assert_refused(backbone, path, f"1 missing: {KEY}")


def test_wrong_shape(backbone, published, save):
    path = save({"model": published | {KEY: torch.zeros(128, 1, 7, 7)}})
    assert_refused(
        backbone, path, f"1 of another shape: {KEY} (128, 1, 7, 7) instead of (128, 1, 5, 5)"
    )


def test_another_variant(backbone, save):
    other = build_backbone(dict(type="recnext_a3")).state_dict()
    path = save({"model": other | head_entries(512)}, "recnext_a3_distill_300e.pth")
    assert_refused(backbone, path, "missing", "unexpected", "and ")


def test_variant_with_the_same_blocks_but_more(backbone, save):
    other = build_backbone(dict(type="recnext_m4")).state_dict()
    assert_refused(backbone, save({"model": other}), "unexpected: stages.0.blocks.3.")


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"epoch": 3},
        {"model": {}},
        {"optimizer": {"state": {}}, "epoch": 3},
        {0: torch.zeros(2)},
    ],
)
def test_no_weights(backbone, save, content):
    assert_refused(backbone, save(content), "holds no state dict of tensors; found: ")


def test_stock_backbone_from_a_torchvision_file(save):
    published = randomised(torchvision.models.resnet18(weights=None).state_dict(), seed=3)
    resnet = build_backbone(dict(type="ResNet", depth=18))
    load_pretrained(resnet, save(published))
    expected = {key: value for key, value in published.items() if not key.startswith("fc.")}
    assert_same(resnet.state_dict(), expected)


def test_init_cfg(published, save, tmp_path):
    path = save({"model": published})
    backbone = build_backbone(
        dict(type="recnext_m3", init_cfg=dict(type="Pretrained", checkpoint=path))
    )
    backbone.init_weights()
    assert_same(backbone.state_dict(), without_heads(published))


def test_init_cfg_of_a_detector(new_detector, published, save, caplog):
    path = save({"model": published})
    init_cfg = dict(_delete_=True, type="Pretrained", checkpoint=path)
    detector = new_detector(**{"backbone.init_cfg": init_cfg})
    before = snapshot(detector.roi_head)["bbox_head.fc_cls.weight"]
    detector.init_weights()
    assert_same(detector.backbone.state_dict(), without_heads(published))
    assert not torch.equal(detector.roi_head.bbox_head.fc_cls.weight, before)
    # mmcv's list of where every parameter came from
    (origin,) = [m for m in caplog.messages if f"backbone.{KEY} - " in m]
    assert f"PretrainedInit: load from {path}" in origin


def test_init_cfg_with_prefix(detector_state, save):
    path = save({"state_dict": detector_state})
    init_cfg = dict(type="Pretrained", checkpoint=path, prefix="backbone.")
    backbone = build_backbone(dict(type="recnext_m3", init_cfg=init_cfg))
    backbone.init_weights()
    own = {k[9:]: v for k, v in detector_state.items() if k.startswith("backbone.")}
    assert_same(backbone.state_dict(), own)


def test_init_cfg_refuses_another_model(save):
    path = save({"model": nn.Linear(2, 2).state_dict()})
    backbone = build_backbone(
        dict(type="recnext_m3", init_cfg=dict(type="Pretrained", checkpoint=path))
    )
    with pytest.raises(CheckpointError, match="is not a checkpoint of this recnext_m3"):
        backbone.init_weights()
