"""Large photos in tiles: each tile is an image of its own, and small objects are found."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

import models_mm  # isort: skip
from mmdet.models import build_detector

from models_mm.data.demo import random_polygon
from models_mm.errors import UserError
from models_mm.evaluation.tiles import tiles_of
from models_mm.mmdet2.configs import load_config

ROOT = Path(__file__).resolve().parents[2]
DEMO = "configs/demo/mask_rcnn_recnext_tiny_fpn_demo.py"
TINY = ROOT / "tests/runs/tiny.py"
SHAPES = {"rectangle": (40, 40, 230), "star": (240, 230, 40)}  # and their colours


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """A detector with masks that has learned nothing, and finds something everywhere."""
    torch.manual_seed(0)
    cfg = load_config(DEMO)
    file = tmp_path_factory.mktemp("weights") / "untrained.pth"
    model = build_detector(cfg.model)
    model.init_weights()
    model.roi_head.bbox_head.fc_cls.weight.data *= 40  # scores that differ
    torch.save({"meta": {"CLASSES": cfg.classes}, "state_dict": model.state_dict()}, file)
    few = {"model.test_cfg.rcnn.max_per_img": 8}
    return models_mm.Detector(DEMO, file, device="cpu", score_thr=0.4, overrides=few)


def photo(rng, width: int, height: int, number: int) -> tuple[np.ndarray, list[dict]]:
    """A picture with shapes of about 20 pixels; class and box (x, y, w, h) of each."""
    coarse = rng.uniform(60, 190, (height // 40 + 2, width // 40 + 2, 3)).astype(np.float32)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    objects, centres = [], np.zeros((0, 2))
    while len(objects) < number:
        centre = rng.uniform(12, (width - 12, height - 12))
        if (np.abs(centres - centre).max(axis=1) < 30).any():
            continue
        centres = np.vstack([centres, centre])
        name = str(rng.choice(list(SHAPES)))
        corners = random_polygon(rng, name, centre, rng.uniform(18, 24))
        color = tuple((np.array(SHAPES[name]) + rng.integers(-25, 26, 3)).tolist())
        cv2.fillPoly(image, [np.round(corners * 8).astype(np.int32)], color, cv2.LINE_AA, 3)
        low, size = corners.min(axis=0), np.ptp(corners, axis=0)
        objects.append({"class": name, "bbox": [*low.tolist(), *size.tolist()]})
    image += rng.normal(0, 4, image.shape).astype(np.float32)
    return image.clip(0, 255).astype(np.uint8), objects


def test_each_tile_is_an_image_of_its_own(detector):
    """Bit for bit before the detections are merged; nothing is lost or moved in the merging."""
    image, _ = photo(np.random.default_rng(0), 320, 250, 30)
    tiles = tiles_of(250, 320, 128, 0.25)
    assert len(tiles) == 9
    alone = []
    for tile, found in detector.of_tiles(image, tiles):
        own = detector(image[tile.region].copy())
        for name in ("boxes", "scores", "labels", "masks"):
            assert np.array_equal(getattr(found, name), getattr(own, name)), name
        alone.append((tile, own))
    merged = detector.tiled(image, 128, 0.25)
    assert merged.masks.shape == (len(merged), 250, 320) and (np.diff(merged.scores) <= 0).all()
    placed = {}
    for tile, own in alone:
        corner = np.tile(tile[:2], 2)
        for box, score, mask in zip(own.boxes, own.scores, own.masks, strict=True):
            whole = np.zeros((250, 320), bool)
            whole[tile.region] = mask
            placed[(*(box + corner).round(3), score)] = whole
    known = 0
    for i, box in enumerate(merged.boxes):
        mask = placed.get((*box.round(3), merged.scores[i]))
        if mask is not None:  # the others are those of the whole image, which is one more tile
            known += 1
            assert np.array_equal(merged.masks[i], mask)
            lengths = merged.mask_lengths()[i]
            assert np.array_equal(coco_mask.decode(lengths).astype(bool), mask)
    assert known > len(merged) / 2
    batched = detector.tiled(image, 128, 0.25, batch=4)
    np.testing.assert_allclose(batched.boxes, merged.boxes, atol=1e-2)


def test_an_image_that_is_one_tile_is_not_cut(detector):
    image, _ = photo(np.random.default_rng(1), 120, 100, 5)
    one, plain = detector.tiled(image, 128), detector(image)
    assert np.array_equal(one.boxes, plain.boxes) and np.array_equal(one.masks, plain.masks)
    with pytest.raises(UserError, match="10,201 tiles of 32 pixels in an image of 3232x3232"):
        detector.tiled(np.zeros((3232, 3232, 3), np.uint8), 32, 0)


@pytest.mark.slow
def test_small_objects_of_large_photos_are_found(run_tool, tmp_path):
    """At least twice the recall: 4000x3000 pixels, objects of 20 pixels."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(64):
        pixels, objects = photo(rng, 160, 160, int(rng.integers(3, 9)))
        cv2.imwrite(str(tmp_path / f"{number}.png"), pixels)
        images.append({"id": number, "file_name": f"{number}.png", "width": 160, "height": 160})
        for thing in objects:
            category = list(SHAPES).index(thing["class"])
            area = thing["bbox"][2] * thing["bbox"][3]
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": category}
            annotations.append(entry | {"bbox": thing["bbox"], "area": area, "iscrowd": 0})
    categories = [{"id": i, "name": name} for i, name in enumerate(SHAPES)]
    truth = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    data = {"classes": tuple(SHAPES), "ann_file": str(tmp_path / "truth.json")}
    data["img_prefix"] = f"{tmp_path}/"
    config = tmp_path / "small.py"
    config.write_text(f"""
_base_ = {str(TINY)!r}
model = dict(
    backbone=dict(
        arch=dict(series="m", width=24, depths=(1, 1, 1, 1), mlp_ratio=2),
        drop_path_rate=0.0,
        out_indices=(1, 2),
    ),
    neck=dict(in_channels=[48, 96], out_channels=32),
    bbox_head=dict(
        num_classes=2,
        in_channels=32,
        feat_channels=32,
        anchor_generator=dict(octave_base_scale=2.5, strides=[8, 16]),
    ),
    test_cfg=dict(nms_pre=1000, score_thr=0.05, max_per_img=300),
)
data = dict(
    samples_per_gpu=8,
    train={data},
    val={data},
    test={data},
)
optimizer = dict(lr=4e-3)
lr_config = dict(warmup_iters=20)
runner = dict(max_epochs=40)
evaluation = dict(interval=50)
log_config = dict(interval=50)
checkpoint_config = dict(interval=10)
""")
    work = tmp_path / "work"
    scales = {"train": "pipeline.2.img_scale=(160,160)", "test": "pipeline.1.img_scale=(640,640)"}
    options = [f"data.{split}.{scale}" for split, scale in scales.items()]
    done = run_tool(
        *(ROOT / "tools/train.py", config, "--work-dir", work, "--seed", 0),
        *("--cfg-options", *options, "data.train.pipeline.2.multiscale_mode=value"),
        timeout=3000,
    )
    assert done.returncode == 0, done.stderr
    large, objects = photo(rng, 4000, 3000, 150)
    cv2.imwrite(str(tmp_path / "large.png"), large)
    recalls = []
    scale = "data.test.pipeline.1.img_scale=(1333,800)"  # as in COCO's recipes
    for number, options in enumerate((["--cfg-options", scale], ["--tile", 640, "--batch", 4])):
        out = tmp_path / str(number)
        done = run_tool(
            *(ROOT / "tools/predict.py", tmp_path / "large.png", "--model", work, "--out", out),
            *("--format", "json", "--device", "cpu", *options),
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        found = json.loads((out / "large.json").read_text())["objects"]
        recalls.append(recall(objects, found))
    print("recall without and with tiles:", recalls)
    assert recalls[1] >= max(2 * recalls[0], 0.5)


def recall(objects: list[dict], found: list[dict]) -> float:
    """The share of objects that have a detection of their class with an IoU of at least 0.5."""
    hits = 0
    for thing in objects:
        boxes = [f["box"] for f in found if f["class"] == thing["class"]]
        boxes = np.array(boxes).reshape(-1, 4)
        sizes = boxes[:, 2:] - boxes[:, :2]
        lengths = np.concatenate([boxes[:, :2], sizes], axis=1)
        overlaps = coco_mask.iou(lengths, np.array([thing["bbox"]]), [0]) if len(boxes) else [0]
        hits += np.max(overlaps) >= 0.5
    return float(hits / len(objects))
