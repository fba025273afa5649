"""Whole detectors: for testing or resuming exactly, for fine-tuning up to the classes."""

import logging
import re

import pytest
import torch
from mmcv.parallel import MMDataParallel
from mmcv.runner import EMAHook, EpochBasedRunner
from mmdet.core.hook import ExpMomentumEMAHook
from mmdet.models import build_head

from models_mm.checkpoints import load_checkpoint, load_for_finetuning
from models_mm.errors import CheckpointError

from .conftest import assert_same, randomised, snapshot


@pytest.fixture
def logger():
    """One that the test can listen to: mmcv's own do not propagate."""
    return logging.getLogger("test of checkpoints")


def assert_refused(detector, path, *patterns, load=load_checkpoint):
    before = snapshot(detector)
    with pytest.raises(CheckpointError) as error:
        load(detector, path)
    for pattern in (path, *patterns):
        assert pattern in str(error.value)
    assert_same(detector.state_dict(), before)


# --- exact


@pytest.mark.parametrize("layout", ["state_dict", "bare"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_exact(detector, detector_state, save, layout, prefix):
    entries = {prefix + key: value for key, value in detector_state.items()}
    content = {"state_dict": entries, "meta": {"epoch": 12}} if layout == "state_dict" else entries
    checkpoint = load_checkpoint(detector, save(content))
    assert_same(detector.state_dict(), detector_state)
    if layout == "state_dict":
        assert checkpoint["meta"] == {"epoch": 12}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrapped_model(detector, detector_state, save, prefix):
    entries = {prefix + key: value for key, value in detector_state.items()}
    load_checkpoint(MMDataParallel(detector), save({"state_dict": entries}))
    assert_same(detector.state_dict(), detector_state)


def test_files_without_counters_of_batch_norm(detector, detector_state, save):
    counters = {key for key in detector_state if key.endswith("num_batches_tracked")}
    expected = detector_state | {key: detector.state_dict()[key] for key in counters}
    entries = {key: value for key, value in detector_state.items() if key not in counters}
    load_checkpoint(detector, save({"state_dict": entries}))
    assert_same(detector.state_dict(), expected)


@pytest.mark.parametrize("hook", [EMAHook, ExpMomentumEMAHook])
def test_running_averages_are_left_out(
    detector, detector_state, new_detector, save, tmp_path, hook
):
    """A file of a training with mmcv's or mmdet's EMA hook, written by the hook itself."""
    trained = new_detector()
    trained.load_state_dict(detector_state)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    runner = EpochBasedRunner(
        trained, optimizer=optimizer, work_dir=str(tmp_path), logger=logging.getLogger(), meta={}
    )
    hook().before_run(runner)
    runner.save_checkpoint(str(tmp_path), create_symlink=False)
    (path,) = tmp_path.glob("epoch_*.pth")
    names = torch.load(path)["state_dict"]
    assert any(name.startswith("ema_backbone_") for name in names)
    load_checkpoint(detector, str(path))
    assert_same(detector.state_dict(), detector_state)


def test_resuming_restores_running_averages(detector, detector_state, save):
    """With the hook at work the averages are the model's own buffers, and must be in the file."""
    detector.register_buffer("ema_neck_x", torch.zeros(3))
    entries = detector_state | {"ema_neck_x": torch.ones(3)}
    load_checkpoint(detector, save({"state_dict": entries}))
    assert torch.equal(detector.ema_neck_x, torch.ones(3))
    assert_refused(detector, save({"state_dict": detector_state}, "old.pth"), "missing: ema_neck_x")


def test_classification_file_is_no_detector(detector, published, save):
    path = save({"model": published}, "recnext_m3_distill_300e.pth")
    wanted = f"set model.backbone.init_cfg=dict(type='Pretrained', checkpoint='{path}')"
    assert_refused(detector, path, "holds a backbone without neck and heads", wanted)


def test_another_detector(detector, detector_state, save):
    extra = {"roi_head.mask_head.conv_logits.bias": torch.zeros(80)}
    path = save({"state_dict": detector_state | extra})
    assert_refused(detector, path, "FasterRCNN", f"1 unexpected: {next(iter(extra))}")


def test_incomplete_file(detector, detector_state, save):
    entries = {k: v for k, v in detector_state.items() if not k.startswith("neck.")}
    assert_refused(detector, save({"state_dict": entries}), "16 missing: neck.lateral_convs.0.conv")


def test_another_number_of_classes_is_not_exact(new_detector, detector_state, save):
    detector = new_detector(**{"roi_head.bbox_head.num_classes": 5})
    path = save({"state_dict": detector_state})
    key = "roi_head.bbox_head.fc_cls.weight"
    assert_refused(detector, path, f"4 of another shape: {key} (81, 32) instead of (6, 32)")


def test_heads_of_a_classifier_do_not_pass_in_a_detector(detector, detector_state, save):
    """What a backbone's file may have beyond the backbone, a detector's may not."""
    path = save({"state_dict": detector_state | {"head.head.linear.bias": torch.zeros(1000)}})
    assert_refused(detector, path, "1 unexpected: head.head.linear.bias")


# --- fine-tuning

RESIZED = [
    f"roi_head.bbox_head.{layer}.{kind}"
    for layer in ("fc_cls", "fc_reg")
    for kind in ("weight", "bias")
]


def test_another_number_of_classes(new_detector, detector_state, save, logger, caplog):
    detector = new_detector(**{"roi_head.bbox_head.num_classes": 5})
    initial = snapshot(detector)
    load_for_finetuning(detector, save({"state_dict": detector_state}), logger)
    expected = detector_state | {key: initial[key] for key in RESIZED}
    assert_same(detector.state_dict(), expected)
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    named = re.findall(r"[\w.]+\.(?:weight|bias)", warning.getMessage())
    assert sorted(named) == sorted(RESIZED)
    assert "start untrained" in warning.getMessage()


def test_mask_head_with_another_number_of_classes(save, logger, caplog):
    cfg = dict(type="FCNMaskHead", num_convs=1, in_channels=4, conv_out_channels=4)

    class Detector(torch.nn.Module):
        def __init__(self, classes):
            super().__init__()
            self.backbone = torch.nn.Linear(2, 2)
            self.mask_head = build_head({**cfg, "num_classes": classes})

    state, detector = randomised(Detector(80).state_dict(), seed=4), Detector(3)
    load_for_finetuning(detector, save({"state_dict": state}), logger)
    assert torch.equal(detector.mask_head.upsample.weight, state["mask_head.upsample.weight"])
    assert "mask_head.conv_logits.weight, mask_head.conv_logits.bias" in caplog.text


def test_same_number_of_classes_warns_of_nothing(detector, detector_state, save, logger, caplog):
    load_for_finetuning(detector, save({"state_dict": detector_state}), logger)
    assert_same(detector.state_dict(), detector_state)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_backbone_to_start_from(detector, published, save, logger, caplog):
    initial = snapshot(detector)
    load_for_finetuning(detector, save({"model": published}), logger)
    for key, value in detector.state_dict().items():
        name = key.removeprefix("backbone.")
        assert torch.equal(value, initial[key] if name == key else published[name]), key
    assert "neck, rpn_head, roi_head start untrained" in caplog.text


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("neck.fpn_convs.0.conv.weight", (16, 16, 1, 1)),
        ("roi_head.bbox_head.shared_fcs.1.weight", (64, 32)),
        ("roi_head.bbox_head.fc_cls.weight", (81, 64)),  # the same classes, another width
    ],
)
def test_other_differences_are_refused(detector, detector_state, save, key, shape):
    path = save({"state_dict": detector_state | {key: torch.zeros(shape)}})
    assert_refused(detector, path, f"of another shape: {key}", load=load_for_finetuning)


def test_missing_layers_are_refused(detector, detector_state, save):
    entries = {k: v for k, v in detector_state.items() if "fc_cls" not in k}
    path = save({"state_dict": entries})
    assert_refused(detector, path, "2 missing: roi_head.bbox_head.fc_cls", load=load_for_finetuning)
