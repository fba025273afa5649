"""The traceable module computes what MMDetection's detectors compute in a test."""

from pathlib import Path

import numpy as np
import pytest
import torch

import models_mm  # isort: skip
from mmdet.apis import inference_detector
from mmdet.models import build_detector

from models_mm.deployment.masks import paste
from models_mm.deployment.preprocessing import graph_inputs
from models_mm.errors import UserError
from models_mm.mmdet2.configs import load_config
from models_mm.mmdet2.export import describe, plain_form

TESTS = Path(__file__).resolve().parents[1]
MASK, RETINA = str(TESTS / "soak/tiny_mask.py"), str(TESTS / "runs/tiny.py")


def box_head(deviation: float, agnostic: bool) -> dict:
    """A head of a cascade."""
    coder = dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4)
    deviations = [deviation, deviation, 2 * deviation, 2 * deviation]
    return dict(
        **dict(type="Shared2FCBBoxHead", in_channels=16, fc_out_channels=16, roi_feat_size=7),
        **dict(num_classes=5, reg_class_agnostic=agnostic),
        bbox_coder=dict(coder, target_stds=deviations),
        loss_cls=dict(type="CrossEntropyLoss"),
        loss_bbox=dict(type="L1Loss"),
    )


def cascade(agnostic: bool) -> dict:
    """What makes a cascade of the tiny Mask R-CNN."""
    heads = [box_head(deviation, agnostic) for deviation in (0.1, 0.05, 0.033)]
    return {
        "model.type": "CascadeRCNN",
        "model.roi_head.type": "CascadeRoIHead",
        "model.roi_head.num_stages": 3,
        "model.roi_head.stage_loss_weights": [1, 0.5, 0.25],
        "model.roi_head.bbox_head": heads,
    }


DETECTORS = {
    "mask": (MASK, {}),
    "mask of no class": (MASK, {"model.roi_head.mask_head.class_agnostic": True}),
    "faster": (
        MASK,
        {
            "model.type": "FasterRCNN",
            "model.roi_head.mask_head": None,
            "model.roi_head.mask_roi_extractor": None,
        },
    ),
    "cascade": (MASK, cascade(agnostic=True)),
    "cascade of classes": (MASK, cascade(agnostic=False)),
    "mask with soft NMS": (
        MASK,
        {
            "model.test_cfg.rpn.nms.type": "soft_nms",
            "model.test_cfg.rcnn.nms": dict(type="soft_nms", method="gaussian", sigma=0.3),
        },
    ),
    "retina": (RETINA, {}),
    "retina with soft NMS": (
        RETINA,
        {"model.test_cfg.nms": dict(type="soft_nms", iou_threshold=0.4, method="gaussian")},
    ),
    "retina of detectron2": (
        RETINA,
        {
            "model.bbox_head.type": "Detectron2RetinaHead",
            "model.bbox_head.bbox_coder.clip_border": False,
            "model.test_cfg.nms.split_thr": 1,
        },
    ),
}


def detector(folder: Path, kind: str, **more) -> tuple[models_mm.Detector, str]:
    """A detector with random weights, large enough to move boxes, and the file of its weights."""
    config, settings = DETECTORS[kind]
    settings = {**settings, **more}
    cfg = load_config(config)
    cfg.merge_from_dict(settings)
    cfg.model.train_cfg = None
    torch.manual_seed(0)
    model = build_detector(cfg.model)
    for name, parameter in model.named_parameters():
        if name.endswith(("weight", "bias")) and ("head" in name or "neck" in name):
            torch.nn.init.normal_(parameter, std=0.15)
    file = folder / f"{kind}.pth"
    torch.save({"meta": {"CLASSES": cfg.classes}, "state_dict": model.state_dict()}, file)
    written = folder / f"{kind}.py"
    cfg.dump(str(written))
    return models_mm.Detector(written, file, "cpu", score_thr=0.0), str(file)


def photos() -> list[np.ndarray]:
    """Blurred noise of several sizes, BGR."""
    rng = np.random.default_rng(0)
    sizes = [(48, 64), (70, 50), (33, 90)]
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


@pytest.mark.parametrize("kind", DETECTORS)
def test_outputs_are_those_of_mmdet(tmp_path, kind):
    """Photos of several sizes in one batch, which is padded."""
    own, weights = detector(tmp_path, kind)
    rule = describe(own, weights, None, None, "fp32")
    plain = plain_form(own, rule)
    inputs = [torch.from_numpy(value) for value in graph_inputs(photos(), rule).values()]
    with torch.no_grad():
        boxes, scores, labels, *masks, count = (x.numpy() for x in plain(*inputs))
    results = inference_detector(own.model, photos())
    assert (rule.mask_thr is not None) == bool(masks)
    for i, (result, photo) in enumerate(zip(results, photos(), strict=True)):
        by_class = result[0] if masks else result
        expected = np.concatenate(by_class)
        of_class = np.repeat(np.arange(5), [len(found) for found in by_class])
        order = np.argsort(-expected[:, 4], kind="stable")
        n = int(count[i])
        assert n == len(expected) > 0
        assert not boxes[i, n:].any() and not scores[i, n:].any() and not labels[i, n:].any()
        assert labels[i, :n].tolist() == of_class[order].tolist()
        np.testing.assert_allclose(boxes[i, :n], expected[order, :4], atol=1e-3)
        np.testing.assert_allclose(scores[i, :n], expected[order, 4], atol=1e-6)
        if masks:
            flat = [mask for found in result[1] for mask in found]
            for j, place in enumerate(order):
                ours = paste(masks[0][i, j], boxes[i, j], *photo.shape[:2], rule.mask_thr)
                assert (ours != flat[place]).mean() <= 1e-3


@pytest.mark.parametrize("kind", ["mask", "cascade"])
def test_without_proposals_nothing_is_found(tmp_path, kind):
    own, weights = detector(tmp_path, kind, **{"model.test_cfg.rpn.min_bbox_size": 1000})
    rule = describe(own, weights, None, None, "fp32")
    inputs = [torch.from_numpy(value) for value in graph_inputs(photos(), rule).values()]
    with torch.no_grad():
        outputs = plain_form(own, rule)(*inputs)
    assert not any(output.any() for output in outputs)
    assert not len(own(photos()[0]))


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (
            "mask",
            {"model.test_cfg.rcnn.nms.type": "nms_match"},
            "rcnn.nms: type 'nms_match' cannot",
        ),
        ("mask", {"model.test_cfg.rpn.nms.sigma": 0.5}, "rpn.nms: sigma cannot be exported"),
        ("mask", {"model.test_cfg.rcnn.nms.split_thr": "x"}, "rcnn.nms.split_thr must be a number"),
        ("mask", {"model.test_cfg.rpn.nms.offset": 1}, "rpn.nms.offset must be 0, not 1"),
        (
            "mask",
            {"model.test_cfg.rpn.nms": dict(type="soft_nms", method="naive")},
            "rpn.nms.method must be linear or gaussian, not 'naive'",
        ),
        (
            "mask",
            {"model.test_cfg.rcnn.nms": dict(type="soft_nms", sigma=0.0)},
            "rcnn.nms.sigma must be a number greater than 0, not 0.0",
        ),
        (
            "mask",
            {"model.test_cfg.rcnn.nms": dict(type="soft_nms", sigma=10**400)},
            "rcnn.nms.sigma must be a number greater than 0, not 1000",
        ),
        (
            "retina",
            {
                "model.test_cfg.nms.type": "soft_nms",
                "model.bbox_head.bbox_coder.clip_border": False,
            },
            "bbox_coder.clip_border must be True to be exported with soft NMS",
        ),
        ("retina", {"model.test_cfg.nms_pre": -1}, "model.test_cfg.nms_pre must be a number"),
        (
            "mask",
            {"model.roi_head.bbox_roi_extractor.roi_layer.aligned": False},
            "must be RoIAlign with pool_mode='avg' and aligned=True",
        ),
        (
            "mask",
            {"model.roi_head.mask_roi_extractor.roi_layer.output_size": (14, 7)},
            "and its output a square",
        ),
        ("mask", {"model.test_cfg.rcnn.nms": None}, "rcnn.nms.iou_threshold must be a number, 0"),
        ("mask", {"model.test_cfg.rcnn.nms.iou_threshold": 2.0}, "must be a number, 0 to 1, not 2"),
        ("mask", {"model.test_cfg.rpn.max_per_img": -1}, "rpn.max_per_img must be a whole number"),
        (
            "retina",
            {"model.bbox_head.type": "FreeAnchorRetinaHead"},
            "a FreeAnchorRetinaHead cannot",
        ),
    ],
)
def test_what_cannot_be_exported_is_named(tmp_path, kind, settings, message):
    own, weights = detector(tmp_path, kind, **settings)
    with pytest.raises(UserError, match=message):
        plain_form(own, describe(own, weights, None, None, "fp32"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data.test.pipeline.1.flip": True}, "test-time augmentation: give flip=False"),
        ({"data.test.pipeline.1.transforms.2.type": "PhotoMetricDistortion"}, "transforms must be"),
        ({"data.test.pipeline.0.channel_order": "rgb"}, "channel_order='rgb'"),
        ({"data.test.pipeline.1.img_scale": (100_000, 64)}, "scale must be a pair of sides"),
        ({"data.test.pipeline.1.transforms.0.interpolation": "box"}, "interpolation must be near"),
    ],
)
def test_a_pipeline_that_cannot_be_exported(tmp_path, settings, message):
    own, weights = detector(tmp_path, "retina")
    own.model.cfg.merge_from_dict(settings, allow_list_keys=True)
    with pytest.raises(UserError, match=message):
        describe(own, weights, None, None, "fp32")
