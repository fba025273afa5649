"""Conversion of detectron2's MPViT files: every form, every fault, and what the heads then say."""

import models_mm  # isort: skip  # noqa: F401  (before mmdet, which does not import without it)

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.models import build_backbone

from models_mm.checkpoints import load_checkpoint, load_pretrained, read_checkpoint
from models_mm.checkpoints.convert import convert_mpvit
from models_mm.errors import CheckpointError
from models_mm.mmdet2.detectors import mpvit_detector

from . import detectron2_files as detectron2

ROOT = Path(__file__).resolve().parents[2]
CONVERT = ROOT / "tools/convert_checkpoint.py"
ENTRIES = {"retinanet": 907, "mask_rcnn": 913}
SIZE, ORIGINAL = (300, 416), (240, 333)
META = dict(
    img_shape=(*SIZE, 3),
    pad_shape=(320, 416, 3),
    ori_shape=(*ORIGINAL, 3),
    scale_factor=np.array([416 / 333, 300 / 240] * 2, dtype=np.float32),
    flip=False,
)


@pytest.fixture(scope="module", params=["retinanet", "mask_rcnn"])
def case(request):
    return request.param, detectron2.entries_of(request.param)


@pytest.fixture(scope="module")
def retinanet_entries():
    return detectron2.entries_of("retinanet")


@pytest.fixture(scope="module")
def mask_rcnn_entries():
    return detectron2.entries_of("mask_rcnn")


def written(path, content):
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    return path


def converted(path, entries, **more):
    return convert_mpvit(written(path, {"model": entries, **more}), mpvit_detector)


def refusal(path, entries) -> str:
    with pytest.raises(CheckpointError) as error:
        converted(path, entries)
    assert str(path) in str(error.value)
    return str(error.value)


# --- forms of a file


def training_state():
    """What detectron2 keeps beside the weights."""
    return dict(
        iteration=89999,
        trainer=dict(iteration=89999, hooks={}),
        optimizer=dict(state={0: dict(step=5, exp_avg=torch.zeros(3))}, param_groups=[]),
        scheduler=dict(last_epoch=90000, base_lrs=[1e-4]),
    )


def as_arrays(entries):
    return {key: value.numpy() for key, value in entries.items()}


@pytest.mark.slow
def test_tool(case, run_tool, tmp_path):
    detector, entries = case
    extras = {
        "pixel_mean": torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1),
        "pixel_std": torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1),
        ("" if detector == "retinanet" else "proposal_generator.")
        + "anchor_generator.cell_anchors.0": torch.zeros(9, 4),
    }
    content = {"model": {f"module.{k}": v for k, v in (entries | extras).items()}}
    source = written(tmp_path / "model_final.pth", content | training_state())
    target = tmp_path / "out.pth"
    done = run_tool(CONVERT, "mpvit-detectron2", source, "--check")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert not target.exists() and "note" not in done.stdout
    done = run_tool(CONVERT, "mpvit-detectron2", source, target)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert [line for line in done.stdout.splitlines() if line.startswith("dropped")] == [
        f"dropped {key}" for key in extras
    ]
    assert ("anchors permuted in bbox_head.retina_cls.weight" in done.stdout) == (
        detector == "retinanet"
    )
    meta = read_checkpoint(target)["meta"]
    assert meta["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert (meta["arch"], meta["detector"], meta["mlp_ratio"]) == ("tiny", detector, [2, 2, 2, 2])
    assert len(meta["CLASSES"]) == 80
    model = mpvit_detector(detector, "tiny", [2] * 4)
    load_checkpoint(model, str(target))
    state = model.state_dict()
    assert len(state) == ENTRIES[detector]
    for key, value in entries.items():
        if key.startswith(detectron2.PREFIX):
            assert torch.equal(state["backbone." + key[len(detectron2.PREFIX) :]], value)
    done = run_tool(CONVERT, "mpvit-detectron2", target, tmp_path / "again.pth")
    assert done.returncode == 1 and "converted already" in done.stderr
    assert not (tmp_path / "again.pth").exists()


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
@pytest.mark.parametrize("prefix", [detectron2.PREFIX, "bottom_up.backbone.", "backbone.", ""])
def test_arrays_and_prefixes(mask_rcnn_entries, tmp_path, suffix, prefix):
    entries = mask_rcnn_entries
    short = {key.replace(detectron2.PREFIX, prefix, 1): v for key, v in entries.items()}
    expected = converted(tmp_path / "file.pth", entries).checkpoint["state_dict"]
    actual = converted(
        tmp_path / f"short{suffix}",
        as_arrays(short),
        __author__="third_party",
        matching_heuristics=True,
    ).checkpoint["state_dict"]
    assert list(actual) == list(expected)
    assert all(torch.equal(actual[key], expected[key]) for key in expected)


def test_half_precision_and_missing_counters(case, tmp_path):
    _, entries = case
    half = {
        key: value.half() if value.is_floating_point() else value
        for key, value in entries.items()
        if not key.endswith("num_batches_tracked")
    }
    state = converted(tmp_path / "half.pth", half).checkpoint["state_dict"]
    assert {v.dtype for v in state.values()} == {torch.float32, torch.int64}
    assert not any(v for k, v in state.items() if k.endswith("num_batches_tracked"))


@pytest.mark.parametrize("prefix", [detectron2.PREFIX, "bottom_up.backbone.", "backbone.", ""])
@pytest.mark.parametrize("classifier", [True, False])
def test_backbone_file(retinanet_entries, tmp_path, prefix, classifier):
    start = len(detectron2.PREFIX)
    plain = {k[start:]: v for k, v in retinanet_entries.items() if k.startswith(detectron2.PREFIX)}
    entries = {prefix + key: value for key, value in plain.items()}
    if classifier:
        entries[prefix + "cls_head.cls.weight"] = torch.rand(1000, 216)
        entries[prefix + "cls_head.cls.bias"] = torch.rand(1000)
    path = written(tmp_path / "mpvit_tiny_d2.pth", {"model": entries})
    conversion = convert_mpvit(path, mpvit_detector)
    assert len(conversion.dropped) == 2 * classifier
    target = written(tmp_path / "out.pth", conversion.checkpoint)
    for file in (path, target):
        backbone = build_backbone(dict(type="mpvit_tiny"))
        load_pretrained(backbone, str(file))
        state = backbone.state_dict()
        assert list(state) == list(plain)
        assert all(torch.equal(state[key], value) for key, value in plain.items())


def test_backbone_of_a_detectron2_detector(case, tmp_path):
    _, entries = case
    backbone = build_backbone(dict(type="mpvit_tiny"))
    load_pretrained(backbone, str(written(tmp_path / "detector.pth", {"model": entries})))
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, entries[detectron2.PREFIX + key])


def test_other_mlp_ratio(tmp_path):
    entries = detectron2.entries_of("retinanet", ratios=(4, 4, 4, 4))
    conversion = converted(tmp_path / "file.pth", entries)
    assert conversion.checkpoint["meta"]["mlp_ratio"] == [4, 4, 4, 4]
    (remark,) = conversion.remarks
    assert "model.backbone.mlp_ratio=[4,4,4,4]" in remark
    with pytest.raises(CheckpointError, match=r"model\.backbone\.mlp_ratio=\[4, 4, 4, 4\]"):
        load_pretrained(build_backbone(dict(type="mpvit_tiny")), str(tmp_path / "file.pth"))


def test_other_colours_are_told(retinanet_entries, tmp_path):
    flipped = {"pixel_mean": torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1)}
    (remark,) = converted(tmp_path / "file.pth", retinanet_entries | flipped).remarks
    assert "pixel_mean" in remark


# --- faults


@pytest.mark.parametrize(
    "key",
    [
        f"{detectron2.PREFIX}stem.0.bn.running_var",
        f"{detectron2.PREFIX}mhca_stages.2.mhca_blks.1.MHCA_layers.3.crpe.conv_list.1.bias",
        "backbone.fpn_output4.bias",
    ],
)
def test_missing_key(case, tmp_path, key):
    entries = {k: v for k, v in case[1].items() if k != key}
    assert "1 missing: " in refusal(tmp_path / "file.pth", entries)


@pytest.mark.parametrize(
    "key",
    [
        "head.centerness.weight",
        f"{detectron2.PREFIX}norm.weight",
        "backbone.fpn_lateral6.weight",
        "backbone.fpn_lateral3.running_mean",
        "neck.fpn_convs.0.conv.weight",
    ],
)
def test_unknown_key(retinanet_entries, tmp_path, key):
    message = refusal(tmp_path / "file.pth", retinanet_entries | {key: torch.zeros(3)})
    assert f"1 keys of no known use: {key}" in message


def test_another_shape(case, tmp_path):
    message = refusal(
        tmp_path / "file.pth", case[1] | {"backbone.fpn_lateral3.weight": torch.zeros(256, 176)}
    )
    assert "1 of another shape" in message


def test_disagreeing_names_of_one_tensor(case, tmp_path):
    key = f"{detectron2.PREFIX}mhca_stages.1.mhca_blks.0.MHCA_layers.1.cpe.proj.bias"
    message = refusal(tmp_path / "file.pth", case[1] | {key: case[1][key] + 1})
    assert "1 at odds with another name of the same tensor" in message


def test_another_network(tmp_path):
    message = refusal(tmp_path / "file.pth", {"backbone.bottom_up.res2.weight": torch.zeros(3)})
    assert "no published MPViT" in message


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return Path.touch, (self.proof,)


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_nothing_a_file_brings_along_is_run(retinanet_entries, tmp_path, suffix):
    proof = tmp_path / "proof"
    path = tmp_path / f"file{suffix}"
    content = {"model": as_arrays(retinanet_entries), "trainer": Bomb(proof)}
    conversion = convert_mpvit(written(path, content), mpvit_detector)
    assert not proof.exists()
    assert len(conversion.checkpoint["state_dict"]) == ENTRIES["retinanet"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_every_protocol(tmp_path, protocol):
    content = {"model": {"a": np.arange(6.0).reshape(2, 3), "b": np.array(3), "c": np.float32(2)}}
    path = tmp_path / "file.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    read = read_checkpoint(path)["model"]
    assert all(np.array_equal(read[key], value) for key, value in content["model"].items())


def test_truncated_pickle(tmp_path):
    path = tmp_path / "file.pkl"
    path.write_bytes(pickle.dumps({"model": {"a": np.zeros(99)}})[:200])
    with pytest.raises(CheckpointError, match="truncated, damaged"):
        read_checkpoint(path)


# --- what the heads say


def detector_with(tmp_path, kind, entries):
    model = mpvit_detector(kind, "tiny", [2] * 4)
    model.load_state_dict(converted(tmp_path / "file.pth", entries).checkpoint["state_dict"])
    return model.eval()


def image():
    generator = torch.Generator().manual_seed(1)
    x = torch.zeros(1, 3, 320, 416)
    x[:, :, :300] = torch.randn(1, 3, *SIZE, generator=generator)
    return x


def assert_same_detections(per_class, boxes, scores, classes, tolerance=2e-3):
    """As sets: each detection has its counterpart of the same class."""
    assert sum(len(of_class) for of_class in per_class) == len(boxes) > 10
    for label, found in enumerate(per_class):
        own = classes == label
        expected = torch.cat([boxes[own], scores[own, None]], 1).numpy()
        assert len(found) == len(expected)
        for detection in expected:
            distance = np.abs(found - detection)
            assert ((distance[:, :4].max(1) < tolerance) & (distance[:, 4] < 1e-4)).any()


@pytest.mark.slow
@torch.inference_mode()
def test_retinanet_detects_what_detectron2_does(retinanet_entries, tmp_path):
    entries = dict(retinanet_entries)
    entries["head.cls_score.weight"] = 0.3 * entries["head.cls_score.weight"]
    entries["head.cls_score.bias"] = entries["head.cls_score.bias"] - 4
    entries["head.bbox_pred.weight"] = 0.3 * entries["head.bbox_pred.weight"]
    model = detector_with(tmp_path, "retinanet", entries)
    expected = detectron2.retinanet(entries, model.backbone(image()), SIZE, ORIGINAL)
    assert_same_detections(model.simple_test(image(), [META], rescale=True)[0], *expected)
    # without the permutation most detections are others
    for kind in ("cls", "reg"):
        layer = getattr(model.bbox_head, f"retina_{kind}")
        for parameter in (layer.weight, layer.bias):
            parameter.copy_(parameter.unflatten(0, (3, 3, -1)).transpose(0, 1).flatten(0, 2))
    with pytest.raises(AssertionError):
        assert_same_detections(model.simple_test(image(), [META], rescale=True)[0], *expected)


@pytest.mark.slow
@torch.inference_mode()
def test_mask_rcnn_detects_what_detectron2_does(mask_rcnn_entries, tmp_path):
    entries = dict(mask_rcnn_entries)
    # moderate boxes, as trained models have: mmdet limits how much they shrink, too
    for name in ("proposal_generator.rpn_head.anchor_deltas", "roi_heads.box_predictor.bbox_pred"):
        entries[f"{name}.weight"] = 0.1 * entries[f"{name}.weight"]
    model = detector_with(tmp_path, "mask_rcnn", entries)
    boxes, scores, classes, masks = detectron2.mask_rcnn(
        entries, model.backbone(image()), SIZE, ORIGINAL
    )
    found, pasted = model.simple_test(image(), [META], rescale=True)[0]
    assert_same_detections(found, boxes, scores, classes)
    levels = model.extract_feat(image())
    rois = torch.cat([torch.zeros(len(boxes), 1), boxes * torch.tensor(META["scale_factor"])], 1)
    logits = model.roi_head._mask_forward(levels, rois)["mask_pred"]
    logits = logits[torch.arange(len(logits)), classes]
    assert (logits - masks).abs().max() < 1e-2 * masks.abs().max()
    assert [len(of_class) for of_class in pasted] == [len(of_class) for of_class in found]


@pytest.mark.parametrize("size", range(3))
@pytest.mark.parametrize("ratio", range(3))
@torch.inference_mode()
def test_order_of_anchors(retinanet_entries, tmp_path, size, ratio):
    """One anchor knows one class and a shift to the right: it has its size, form and shift."""
    entries = dict(retinanet_entries)
    for key in entries:
        if key.startswith(("head.cls_score", "head.bbox_pred")):
            entries[key] = torch.zeros_like(entries[key])
    entries["head.cls_score.bias"] -= 10
    entries["head.cls_score.bias"][(3 * size + ratio) * 80 + 7] = 5
    entries["head.bbox_pred.bias"][(3 * size + ratio) * 4] = 0.1
    model = detector_with(tmp_path, "retinanet", entries)
    wide = dict(META, ori_shape=(9999, 9999, 3), img_shape=(9999, 9999, 3))
    found = model.simple_test(image(), [wide], rescale=False)[0]
    assert sum(map(len, found)) == len(found[7]) > 0
    x1, y1, x2, y2, _ = found[7].T
    inside = (x1 > 0) & (y1 > 0)
    q = (0.5, 1.0, 2.0)[ratio]
    sides = np.array([32 * 2**level * 2 ** (size / 3) for level in range(5)])
    widths, heights = (x2 - x1)[inside], (y2 - y1)[inside]
    level = np.abs(widths[:, None] - sides / q**0.5).argmin(1)
    np.testing.assert_allclose(widths, sides[level] / q**0.5, rtol=1e-4)
    np.testing.assert_allclose(heights, sides[level] * q**0.5, rtol=1e-4)
    shift = ((x1 + x2) / 2)[inside] - 0.1 * widths
    stride = 8 * 2.0**level
    np.testing.assert_allclose(shift / stride, np.round(shift / stride), atol=1e-3)


@torch.inference_mode()
def test_p7_looks_at_what_is_positive_in_p6(retinanet_entries, tmp_path):
    entries = dict(retinanet_entries)
    entries["backbone.top_block.p6.weight"] = torch.zeros(256, 216, 3, 3)
    entries["backbone.top_block.p6.bias"] = torch.full((256,), -1.0)
    model = detector_with(tmp_path, "retinanet", entries)
    *_, p6, p7 = model.extract_feat(image())
    assert (p6 == -1).all()
    bias = entries["backbone.top_block.p7.bias"].view(1, -1, 1, 1)
    assert torch.equal(p7, bias.expand_as(p7))


@pytest.mark.slow
@torch.inference_mode()
def test_flattening_and_background(mask_rcnn_entries, tmp_path):
    entries = dict(mask_rcnn_entries)
    channel, row, column = 5, 2, 6
    entries["roi_heads.box_head.fc1.weight"] = torch.zeros(1024, 256 * 49)
    entries["roi_heads.box_head.fc1.weight"][0, channel * 49 + row * 7 + column] = 1
    predictor = "roi_heads.box_predictor.cls_score"
    entries[f"{predictor}.weight"] = torch.zeros(81, 1024)
    for winner in (80, 0):
        entries[f"{predictor}.bias"] = torch.zeros(81)
        entries[f"{predictor}.bias"][winner] = 10
        model = detector_with(tmp_path, "mask_rcnn", entries)
        head = model.roi_head.bbox_head
        features = torch.randn(4, 256, 7, 7)
        first = head.shared_fcs[0](features.flatten(1))[:, 0] - head.shared_fcs[0].bias[0]
        torch.testing.assert_close(first, features[:, channel, row, column])
        boxes, _ = model.simple_test(image(), [META], rescale=True)[0]
        assert sum(map(len, boxes)) == len(boxes[0])
        assert (len(boxes[0]) > 0) == (winner == 0)
