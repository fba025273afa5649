"""Detections of an image: sorted, drawn, and written in several formats."""

import csv
import json
import os
import signal

import cv2
import numpy as np
import pycocotools.mask as mask_utils
import pytest
from pycocotools.coco import COCO

from models_mm.data.formats.yolo import read_labels
from models_mm.errors import UserError
from models_mm.outputs import Outputs
from models_mm.visualization.detections import Detections
from models_mm.visualization.prediction_files import Ids, Source, writers
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


def write(folder, formats: list[str], masks: bool, ids: Ids | None = None) -> None:
    """Write the files of two images and two frames."""
    outputs = writers(formats, Outputs(folder), CLASSES, ids)
    found = Detections.of_result(IMAGE, result(masks), 0.3, CLASSES)
    video = folder / "clip.mp4"
    frames = [] if ids else [Source(f"clip.mp4#{i}", "clip", i, video) for i in range(2)]
    for source in (Source("a.jpg", "a"), Source("deep/b.jpg", "b"), *frames):
        for output in outputs:
            output.add(source, found)
    for output in outputs:
        output.close()


@pytest.mark.parametrize("masks", [True, False])
def test_coco_predictions(masks, tmp_path):
    write(tmp_path, ["coco"], masks)
    content = json.loads((tmp_path / "predictions.json").read_text())
    assert content["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert content["images"][1] == {"id": 2, "file_name": "deep/b.jpg", "width": 60, "height": 40}
    assert [entry["id"] for entry in content["annotations"]] == list(range(1, 9))
    dog = content["annotations"][2]
    assert (dog["image_id"], dog["category_id"], dog["iscrowd"]) == (2, 2, 0)
    assert dog["bbox"] == [20, 10, 30, 20] and dog["area"] == 600
    if masks:
        assert mask_utils.decode(dog["segmentation"]).sum() == 600
    else:
        assert "segmentation" not in dog
    found = COCO(str(tmp_path / "predictions.json")).loadRes(str(tmp_path / "results.json"))
    assert len(found.anns) == 8 and found.anns[3]["image_id"] == 2
    write(tmp_path / "one", ["predictions"], masks)
    assert [file.name for file in (tmp_path / "one").iterdir()] == ["predictions.json"]


def test_results_have_the_ids_of_an_annotation_file(tmp_path):
    truth = {
        "images": [{"id": 70, "file_name": "a.jpg"}, {"id": 8, "file_name": "deep/b.jpg"}],
        "categories": [{"id": 5, "name": "dog"}, {"id": 90, "name": "cat"}],
    }
    ids = Ids.of(truth, CLASSES, "truth.json")
    assert ids.image("/data/deep/b.jpg") == 8
    with pytest.raises(UserError, match="no image c.jpg"):
        ids.image("c.jpg")
    with pytest.raises(UserError, match="truth.json has no category 'dogs'; did you mean dog"):
        Ids.of(truth, ("dogs",), "truth.json")
    write(tmp_path, ["coco"], True, ids)
    results = json.loads((tmp_path / "results.json").read_text())
    assert [(r["image_id"], r["category_id"]) for r in results] == [
        (70, 5),
        (70, 90),
        (8, 5),
        (8, 90),
    ]


def test_json_per_image_and_line_per_frame(tmp_path):
    write(tmp_path, ["json"], True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.json", "b.json", "clip.jsonl"]
    content = json.loads((tmp_path / "b.json").read_text())
    assert (content["file"], content["width"], content["height"]) == ("deep/b.jpg", 60, 40)
    dog, cat = content["objects"]
    assert dog["class"] == "dog" and dog["box"] == [20, 10, 50, 30]
    assert dog["score"] == pytest.approx(0.8) and mask_utils.decode(cat["mask"]).sum() == 400
    lines = [json.loads(line) for line in (tmp_path / "clip.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == [0, 1]
    assert all(line["objects"] == content["objects"] for line in lines)


def test_a_table(tmp_path):
    write(tmp_path, ["csv"], True)
    with open(tmp_path / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 and [row["frame"] for row in rows] == [*[""] * 4, "0", "0", "1", "1"]
    dog = dict(file="a.jpg", frame="", score="0.8000", left="20.00", top="10.00", right="50.00")
    assert rows[0] == {**dog, "class": "dog", "bottom": "30.00", "mask_pixels": "600"}


@pytest.mark.parametrize("masks", [True, False])
def test_yolo_labels_are_read_back(masks, tmp_path):
    """By this package's reader of YOLO's format, within a tenth of a pixel."""
    write(tmp_path, ["yolo"], masks)
    labels = tmp_path / "labels"
    assert (labels / "classes.txt").read_text() == "cat\ndog\n"
    assert sorted(file.name for file in (labels / "clip").iterdir()) == ["000000.txt", "000001.txt"]
    faults: list = []
    dog, cat = read_labels(labels / "a.txt", (60, 40), list(CLASSES), False, faults)
    assert not faults and (dog["class"], cat["class"]) == ("dog", "cat")
    np.testing.assert_allclose([dog["bbox"], cat["bbox"]], [[20, 10, 30, 20], [10, 5, 20, 20]])
    assert ("segmentation" in dog) == masks
    if masks:
        lengths = mask_utils.merge(mask_utils.frPyObjects(dog["segmentation"], 40, 60))
        expected = Detections.of_result(IMAGE, result(True), 0.3, CLASSES).masks[0]
        assert np.array_equal(mask_utils.decode(lengths).astype(bool), expected)


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


def test_a_video_is_whole_up_to_its_last_frame_after_a_kill(tmp_path):
    process = os.fork()
    if process == 0:
        with video_writer(tmp_path / "out.mp4", tmp_path / "none") as write:
            for value in range(6):
                write(np.full((40, 60, 3), 40 * value, np.uint8))
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(process, 0)
    clip, values = cv2.VideoCapture(str(tmp_path / "out.mp4")), []
    assert clip.get(cv2.CAP_PROP_FRAME_COUNT) == 6 and clip.get(cv2.CAP_PROP_FPS) == 25
    while (frame := clip.read()) and frame[0]:
        values.append(round(frame[1].mean()))
    np.testing.assert_allclose(values, range(0, 240, 40), atol=2)


def test_frames_that_no_video_holds(tmp_path):
    with pytest.raises(UserError, match="another size than the first"):
        with video_writer(tmp_path / "out.mp4", tmp_path / "none") as write:
            write(np.zeros((4, 6, 3), np.uint8))
            write(np.zeros((4, 8, 3), np.uint8))
    with pytest.raises(UserError, match="no video holds frames of 65536x1 pixels"):
        with video_writer(tmp_path / "wide.mp4", tmp_path / "none") as write:
            write(np.zeros((1, 2**16, 3), np.uint8))
    assert not (tmp_path / "wide.mp4").exists()
