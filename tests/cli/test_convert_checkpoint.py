"""Checkpoints in each published format: identified, converted, loaded strictly, or refused."""

import models_mm  # isort: skip  (before mmdet, which needs it)

import pickle

import pytest
import torch
from mmdet.models import build_detector

from models_mm.checkpoints import load_checkpoint, read_checkpoint
from models_mm.cli import convert
from models_mm.errors import CheckpointError

from ..checkpoints.conftest import head_entries, randomised
from ..checkpoints.detectron2_files import entries_of


def norm_and_head(width: int) -> dict:
    entries = {"norm.weight": torch.rand(width), "norm.bias": torch.rand(width)}
    return entries | {"head.weight": torch.rand(1000, width), "head.bias": torch.rand(1000)}


# Variant -> classifier of its published file, and the keys that this lacks.
CLASSIFICATION = {
    "recnext_m3": (head_entries(512), ()),
    "biformer_s": (norm_and_head(512), ("extra_norms.",)),
    "dfvt_t": (norm_and_head(384), ("conv1x1layers.", "norm0", "norm1", "norm2", "norm3")),
    "mpvit_tiny": (
        {"cls_head.cls.weight": torch.rand(1000, 216), "cls_head.cls.bias": torch.rand(1000)},
        (),
    ),
    "kw1x_mobilenetv2": ({}, ()),
    "convnext_t": (norm_and_head(768), ("norm0", "norm1", "norm2", "norm3")),
}
FAMILY_NAMES = {"kw1x_mobilenetv2": "kernelwarehouse", "convnext_t": "convnext"}


@pytest.fixture
def tool(capsys):
    """Call the tool; returns what it prints."""

    def call(*arguments):
        convert.main([str(argument) for argument in arguments])
        return capsys.readouterr().out

    return call


def classification_file(variant: str) -> dict:
    classifier, missing = CLASSIFICATION[variant]
    model = models_mm.create_backbone(variant)
    state = randomised(model.state_dict(), seed=1)
    if "relative_position_index" in "".join(state):
        state |= {k: v for k, v in model.state_dict().items() if k.endswith("position_index")}
    for key, value in same_tensor(model).items():
        state[key] = state[value]
    state = {key: value for key, value in state.items() if not key.startswith(missing or ("-",))}
    return state | classifier


def same_tensor(model) -> dict[str, str]:
    """Keys of a state dict that name a tensor once more -> its first name."""
    first, again = {}, {}
    for key, value in model.state_dict().items():
        if value.numel() and first.setdefault(value.data_ptr(), key) != key:
            again[key] = first[value.data_ptr()]
    return again


@pytest.mark.parametrize("variant", CLASSIFICATION)
def test_classification_file(tool, tmp_path, variant):
    family = FAMILY_NAMES.get(variant, variant.partition("_")[0])
    entries = classification_file(variant)
    source, target = tmp_path / "in.pth", tmp_path / "out.pth"
    torch.save({"model": entries, "epoch": 299, "max_accuracy": 81.5}, source)

    said = tool("inspect", source)
    for fact in (f"variant:     {variant}", "kind:        classification", "epoch:       299"):
        assert fact in said
    assert "max_accuracy:81.5" in said.replace(" ", "") and "loads strictly" in said

    tool(f"{family}-classification", source, target)
    written = read_checkpoint(target)
    classifier = CLASSIFICATION[variant][0]
    kept = set(entries) - set(classifier)
    fresh = set(written["state_dict"]) - kept  # norms of BiFormer's outputs, by definition 1 and 0
    assert all(key.startswith(("extra_norms.", "norm")) for key in fresh)
    assert all(torch.equal(written["state_dict"][key], entries[key]) for key in kept)
    backbone = models_mm.create_backbone(variant, pretrained=target)
    name, parameter = next(backbone.named_parameters())
    assert torch.equal(parameter, entries[name])
    kind = "backbone" if classifier else "classification"  # warehouses keep theirs
    assert f"kind:        {kind}" in tool("inspect", target)

    other = next(name for name in ("dfvt", "recnext") if name != family)
    with pytest.raises(CheckpointError, match=f"is no {other} classification file but {variant}"):
        tool(f"{other}-classification", source, target)
    del entries[next(key for key in entries if key.endswith("weight"))]
    torch.save({"model": entries}, source)
    with pytest.raises(CheckpointError, match="1 missing"):
        tool(f"{family}-classification", source, tmp_path / "never.pth")
    assert not (tmp_path / "never.pth").exists()
    with pytest.raises(SystemExit):
        tool("inspect", source)


@pytest.mark.parametrize("kind", ["classification", "detectron2"])
def test_one_command_for_files_of_all_kinds(tool, tmp_path, kind):
    """`convert IN OUT`, with the word or without, is the command of the file's family and kind."""
    source = tmp_path / "in.pth"
    if kind == "classification":
        torch.save({"model": classification_file("recnext_m3")}, source)
    else:
        torch.save({"model": entries_of("retinanet", "tiny")}, source)
    old = {"classification": "recnext-classification", "detectron2": "mpvit-detectron2"}[kind]
    words = {"old": [old], "convert": ["convert"], "none": []}
    for name, word in words.items():
        tool(*word, source, tmp_path / f"{name}.pth")
    expected, *others = (read_checkpoint(tmp_path / f"{name}.pth")["state_dict"] for name in words)
    for other in others:
        assert other.keys() == expected.keys()
        assert all(torch.equal(other[key], expected[key]) for key in expected)
    assert "nothing written" in tool(source, "--check")


@pytest.mark.parametrize(
    ("config", "classes"),
    [
        ("retinanet_recnext_m3_fpn_1x_coco", 80),
        ("mask_rcnn_biformer_s_fpn_1x_coco", 3),
        ("retinanet_dfvt_t_fpn_1x_coco", 3),
        ("cascade_mask_rcnn_mpvit_tiny_fpn_1x_coco", 80),
    ],
)
def test_detection_file_is_published(tool, tmp_path, config, classes):
    cfg = models_mm.get_config(config)
    cfg.model.backbone.init_cfg = None
    heads = cfg.model.get("roi_head", {"": cfg.model.get("bbox_head")})
    for head in heads.values():
        if isinstance(head, dict) and "num_classes" in head:
            head.num_classes = classes
    detector = build_detector(cfg.model)
    source, target = tmp_path / "epoch_12.pth", tmp_path / "best.pth"
    meta = {"epoch": 12, "iter": 345, "hook_msgs": {"best_score": 0.41}, "CLASSES": ("a", "b")}
    torch.save(
        {"meta": meta, "state_dict": detector.state_dict(), "optimizer": {"state": {}}}, source
    )
    said = tool("inspect", source)
    detector_name = config.partition("_" + cfg.model.backbone.type)[0]
    for fact in (f"kind:        {detector_name}", "epoch:       12", "best_score:  0.41"):
        assert fact in said
    assert "beside them: optimizer" in said

    said = tool("publish", source, target)
    (final,) = tmp_path.glob("best-*.pth")
    assert str(final) in said and len(final.stem) == len("best-") + 8
    written = read_checkpoint(final)
    assert set(written) == {"meta", "state_dict"} and written["meta"]["epoch"] == 12
    load_checkpoint(detector, str(final))

    weights = tmp_path / "weights.safetensors"
    tool("publish", final, weights)
    (weights,) = tmp_path.glob("weights-*.safetensors")
    again = read_checkpoint(weights)
    assert again["meta"]["CLASSES"] == ["a", "b"]
    assert all(torch.equal(again["state_dict"][k], v) for k, v in written["state_dict"].items())
    assert load_checkpoint(detector, str(weights))["meta"]["epoch"] == 12


def test_detectors_format_of_detectron2_is_recognised(tool, tmp_path):
    source = tmp_path / "model.pth"
    torch.save({"model": {"backbone.bottom_up.backbone.stem.0.conv.weight": torch.rand(2)}}, source)
    assert "mpvit-detectron2 IN OUT" in tool("inspect", source)


def test_unknown_weights_are_said_to_be(tool, tmp_path):
    source = tmp_path / "model.pth"
    torch.save({"conv.weight": torch.rand(3, 3)}, source)
    with pytest.raises(SystemExit):
        tool("inspect", source)
    with pytest.raises(CheckpointError, match="is unknown: no known backbone"):
        tool("publish", source, tmp_path / "out.pth")


class Bomb:
    """Unpickling it leaves a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("command", ["inspect", "publish", "rewrite", "recnext-classification"])
@pytest.mark.parametrize("suffix", ["pth", "pkl"])
def test_code_in_a_file_does_not_run(tool, tmp_path, command, suffix):
    source, trace = tmp_path / f"in.{suffix}", tmp_path / "ran"
    content = {"model": {"a": torch.rand(1)}, "extra": Bomb(trace)}
    if suffix == "pkl":
        source.write_bytes(pickle.dumps({"model": {}, "extra": Bomb(trace)}))
    else:
        torch.save(content, source)
    outputs = [] if command == "inspect" else [tmp_path / "out.pth"]
    try:
        tool(command, source, *outputs)
    except (CheckpointError, SystemExit):
        assert command != "rewrite"  # the others know what is whose
    assert not trace.exists() and (tmp_path / "out.pth").exists() == (command == "rewrite")


@pytest.mark.parametrize("flag", [(), ("--trust",)])
def test_rewriting_leaves_objects_out(tool, tmp_path, flag):
    """The flag of earlier versions is accepted, and has no meaning any more."""
    source, trace, target = tmp_path / "in.pth", tmp_path / "ran", tmp_path / "out.pth"
    torch.save({"model": {"a": torch.rand(1)}, "extra": Bomb(trace)}, source)
    said = tool("rewrite", source, target, *flag)
    assert not trace.exists() and "dropped extra (" in said
    assert set(read_checkpoint(target)) == {"model"}


def test_safetensors_hold_weights_only(tool, tmp_path):
    source = tmp_path / "in.pth"
    torch.save({"state_dict": {"a": torch.rand(1)}, "optimizer": {}}, source)
    with pytest.raises(CheckpointError, match="no optimizer.*publish"):
        tool("rewrite", source, tmp_path / "out.safetensors")
    assert not list(tmp_path.glob("*out*"))
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"\x10\0\0\0\0\0\0\0{not json")
    with pytest.raises(CheckpointError, match="truncated, damaged"):
        tool("inspect", damaged)
