"""Predicting for images, folders and videos, by the tool and by the three lines of Python."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

import models_mm  # isort: skip
from mmdet.models import build_detector

from models_mm.errors import UserError
from models_mm.mmdet2.configs import load_config

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "configs/demo/mask_rcnn_recnext_tiny_fpn_demo.py"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A detector that has learned nothing, and finds something everywhere."""
    torch.manual_seed(0)
    cfg = load_config(CONFIG)
    model = build_detector(cfg.model)
    model.init_weights()
    file = tmp_path_factory.mktemp("weights") / "untrained.pth"
    torch.save({"meta": {"CLASSES": cfg.classes}, "state_dict": model.state_dict()}, file)
    return file


@pytest.fixture(scope="module")
def detector(checkpoint):
    return models_mm.Detector(CONFIG, checkpoint, device="cpu", score_thr=0.1)


def test_three_lines(detector, demo_data, tmp_path):
    file = sorted((demo_data / "val2017").glob("*.jpg"))[0]
    found = detector(file)
    height, width = cv2.imread(str(file)).shape[:2]
    assert len(found) > 0 and found.boxes.shape == (len(found), 4)
    assert found.masks.shape == (len(found), height, width)
    assert (np.diff(found.scores) <= 0).all() and found.scores.min() >= 0.1
    assert set(found.names) <= {"ellipse", "rectangle", "triangle", "star", "cross"}
    assert found.boxes.min() >= 0 and found.boxes[:, 2].max() <= width
    picture = found.draw(tmp_path / "picture.png")
    assert picture.shape == (height, width, 3) and (picture != found.image).any()
    assert np.array_equal(cv2.imread(str(tmp_path / "picture.png")), picture)
    same, other = detector.batch([cv2.imread(str(file)), file])
    np.testing.assert_allclose([same.boxes, other.boxes], [found.boxes] * 2, atol=1e-2)


def test_what_it_refuses(detector, checkpoint, tmp_path):
    with pytest.raises(UserError, match="image not found: nowhere.jpg"):
        detector("nowhere.jpg")
    (tmp_path / "bad.jpg").write_text("no picture")
    with pytest.raises(UserError, match="bad.jpg is no image"):
        detector(tmp_path / "bad.jpg")
    with pytest.raises(UserError, match="nowhere.pth"):
        models_mm.Detector(CONFIG, "nowhere.pth")


def test_images_folders_and_videos(detector, checkpoint, demo_data, run_tool, tmp_path):
    """Everything readable is written before the unreadable image is named."""
    files = sorted((demo_data / "val2017").glob("*.jpg"))[:3]
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, file in enumerate(files[1:]):
        (folder / f"{number}.JPG").write_bytes(file.read_bytes())
    (folder / "2.png").write_text("no picture")
    (folder / "notes.txt").write_text("no image at all")
    video = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 5, (128, 96))
    for file in files:
        writer.write(cv2.resize(cv2.imread(str(file)), (128, 96)))
    writer.release()
    out = tmp_path / "out"
    done = run_tool(
        *(ROOT / "tools/predict.py", files[0], folder, video, "--config", CONFIG),
        *("--checkpoint", checkpoint, "--out", out, "--batch", 1, "--score-thr", 0.1),
        *("--device", "cpu"),
    )
    assert done.returncode == 1 and "2.png is no image" in done.stderr
    written = {path.name for path in out.iterdir()}
    assert written == {f"{files[0].stem}.jpg", "0.jpg", "1.jpg", "clip.mp4", "predictions.json"}
    content = json.loads((out / "predictions.json").read_text())
    names = [image["file_name"] for image in content["images"]]
    assert names == [
        *(str(files[0]), f"{folder}/0.JPG", f"{folder}/1.JPG"),
        *("clip.avi#0", "clip.avi#1", "clip.avi#2"),
    ]
    coco = COCO(str(out / "predictions.json"))
    first = coco.loadAnns(coco.getAnnIds(imgIds=[1]))
    expected = detector(files[0])
    assert len(first) == len(expected)
    for thing, box, mask, name in zip(
        first, expected.boxes, expected.masks, expected.names, strict=True
    ):
        left, top, width, height = thing["bbox"]
        np.testing.assert_allclose([left, top, left + width, top + height], box, atol=1e-3)
        assert coco.annToMask(thing).shape == mask.shape
        assert coco.cats[thing["category_id"]]["name"] == name
    clip = cv2.VideoCapture(str(out / "clip.mp4"))
    assert clip.get(cv2.CAP_PROP_FRAME_COUNT) == 3 and clip.get(cv2.CAP_PROP_FPS) == 5


@pytest.mark.parametrize(
    ("given", "message"),
    [("nowhere", "no such image, folder or video: nowhere"), (".", "has no images")],
)
def test_nothing_to_predict(checkpoint, run_tool, tmp_path, given, message):
    done = run_tool(
        *(ROOT / "tools/predict.py", given, "--config", CONFIG, "--checkpoint", checkpoint),
        cwd=tmp_path,
    )
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "predictions").exists()
