"""Detections of an image: sorted, drawn, and written in COCO's format."""

import cv2
import numpy as np
import pycocotools.mask as mask_utils
import pytest

from models_mm.errors import UserError
from models_mm.visualization.detections import CocoPredictions, Detections
from models_mm.visualization.videos import video_writer

CLASSES = ("cat", "dog")
IMAGE = np.full((40, 60, 3), 90, np.uint8)


def result(masks: bool):
    """Two cats and a dog; the first cat is not confident."""
    boxes = [
        np.array([[1, 1, 9, 9, 0.1], [10, 5, 30, 25, 0.6]], np.float32),
        np.array([[20, 10, 50, 30, 0.8]], np.float32),
    ]
    pixels = np.zeros((3, 40, 60), bool)
    for mask, (left, top, right, bottom, _) in zip(pixels, np.concatenate(boxes), strict=True):
        mask[int(top) : int(bottom), int(left) : int(right)] = True
    return (boxes, [list(pixels[:2]), list(pixels[2:])]) if masks else boxes


@pytest.mark.parametrize("masks", [True, False])
def test_the_most_confident_comes_first(masks):
    found = Detections.of_result(IMAGE, result(masks), 0.3, CLASSES)
    assert len(found) == 2 and found.names == ["dog", "cat"]
    assert found.scores.tolist() == pytest.approx([0.8, 0.6])
    assert found.boxes.tolist() == [[20, 10, 50, 30], [10, 5, 30, 25]]
    if masks:
        assert found.masks.sum((1, 2)).tolist() == [600, 400]
    nothing = Detections.of_result(IMAGE, result(masks), 0.9, CLASSES)
    assert len(nothing) == 0 and nothing.names == []
    assert (nothing.masks.shape == (0, 40, 60)) if masks else nothing.masks is None


def test_they_are_drawn_and_written(tmp_path):
    found = Detections.of_result(IMAGE, result(True), 0.3, CLASSES)
    picture = found.draw(tmp_path / "new/1.png")
    assert np.array_equal(cv2.imread(str(tmp_path / "new/1.png")), picture)
    assert picture.shape == IMAGE.shape and (picture != IMAGE).any() and (IMAGE == 90).all()
    with pytest.raises(UserError, match="OpenCV cannot write"):
        found.draw(tmp_path / "1.txt")


@pytest.mark.parametrize("masks", [True, False])
def test_coco_predictions(masks):
    predictions = CocoPredictions(CLASSES)
    for name in ("a.jpg", "b.jpg"):
        predictions.add(name, Detections.of_result(IMAGE, result(masks), 0.3, CLASSES))
    content = predictions.content
    assert content["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert content["images"][1] == {"id": 2, "file_name": "b.jpg", "width": 60, "height": 40}
    assert [entry["id"] for entry in content["annotations"]] == [1, 2, 3, 4]
    dog = content["annotations"][2]
    assert (dog["image_id"], dog["category_id"], dog["iscrowd"]) == (2, 2, 0)
    assert dog["bbox"] == [20, 10, 30, 20] and dog["area"] == 600
    if masks:
        assert mask_utils.decode(dog["segmentation"]).sum() == 600
    else:
        assert "segmentation" not in dog


def test_a_video_has_the_rate_of_its_source(tmp_path):
    source = tmp_path / "source.avi"
    writer = cv2.VideoWriter(str(source), cv2.VideoWriter_fourcc(*"MJPG"), 7, (64, 48))
    writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    with video_writer(tmp_path / "out.mp4", source) as write:
        for _ in range(4):
            write(np.full((40, 60, 3), 90, np.uint8))
    clip = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    assert clip.get(cv2.CAP_PROP_FRAME_COUNT) == 4 and clip.get(cv2.CAP_PROP_FPS) == 7
    assert clip.get(cv2.CAP_PROP_FRAME_WIDTH) == 60
    with video_writer(tmp_path / "none.mp4", source):
        pass
    assert not (tmp_path / "none.mp4").exists()
