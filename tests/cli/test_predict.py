"""Predicting for images, folders and videos, by the tool and by the three lines of Python."""

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

import models_mm  # isort: skip
from mmdet.models import build_detector

from models_mm.cli import predict
from models_mm.errors import UserError
from models_mm.mmdet2.configs import load_config
from models_mm.mmdet2.work_dirs import find_trained
from models_mm.prediction import frames_of

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


@pytest.fixture(scope="module")
def work_dir(checkpoint, tmp_path_factory) -> Path:
    """What a training leaves: its config, its last and its best checkpoint."""
    folder = tmp_path_factory.mktemp("work")
    load_config(CONFIG).dump(str(folder / "config.py"))
    (folder / "best_bbox_mAP_epoch_1.pth").write_bytes(checkpoint.read_bytes())
    (folder / "epoch_2.pth").write_bytes(b"never read")
    return folder


def call(*arguments) -> None:
    """The command, in this process."""
    predict.main(["--device", "cpu", *map(str, arguments)])


def test_the_best_checkpoint_of_a_work_dir(work_dir, checkpoint, tmp_path):
    config, best = work_dir / "config.py", work_dir / "best_bbox_mAP_epoch_1.pth"
    last = work_dir / "epoch_2.pth"
    for given, expected in ((work_dir, best), (best, best), (last, last), (config, best)):
        assert find_trained(given) == (config, expected)
    other = tmp_path / "other.py"
    assert find_trained(work_dir, str(other)) == (other, best)
    lone = tmp_path / "lone"
    lone.mkdir()
    with pytest.raises(UserError, match="nowhere does not exist: give the work dir"):
        find_trained(tmp_path / "nowhere")
    with pytest.raises(UserError, match="lone has no checkpoint of a training"):
        find_trained(lone)
    (lone / "best_a.pth").write_bytes(checkpoint.read_bytes())
    with pytest.raises(UserError, match="lone has none: give --config"):
        find_trained(lone)
    for name in ("a.py", "b.py"):
        (lone / name).write_text("")
    with pytest.raises(UserError, match=r"several configs \(a.py, b.py\): give --config"):
        find_trained(lone)


def test_standard_input_odd_images_and_all_formats(
    work_dir, detector, tmp_path, monkeypatch, capsys
):
    """16 bits, grey, with alpha, one pixel: read. Too thin, broken: named, after all others."""
    rng = np.random.default_rng(0)
    odd = {"grey.png": rng.integers(0, 255, (40, 60), np.uint8)}
    odd["alpha.png"] = rng.integers(0, 255, (40, 60, 4), np.uint8)
    odd["deep.png"] = rng.integers(0, 2**16, (40, 60, 3), np.uint16)
    odd["one.png"] = np.full((1, 1, 3), 90, np.uint8)
    odd["thin.png"] = np.zeros((1, 5000, 3), np.uint8)
    for name, pixels in odd.items():
        cv2.imwrite(str(tmp_path / name), pixels)
    (tmp_path / "broken.png").write_text("no picture")
    names = [*odd, "broken.png"]
    lines = "".join(f"{tmp_path / name}\n" for name in names)
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    out = tmp_path / "out"
    wanted = detector(tmp_path / "one.png").names[0]
    formats = ("--format", "pictures", "json", "coco", "csv", "yolo")
    with pytest.raises(UserError, match="(?s)broken.png is no image.*cannot resize 5000x1 pixels"):
        options = ("--score", 0.1, "--batch", 3, "--classes", wanted, *formats)
        call("-", "--model", work_dir, "--out", out, *options)
    stems = [Path(name).stem for name in odd][:-1]
    expected = {f"{stem}.{kind}" for stem in stems for kind in ("jpg", "json")}
    expected |= {"predictions.json", "results.json", "predictions.csv"}
    assert {file.name for file in out.iterdir() if file.is_file()} == expected
    assert {file.stem for file in (out / "labels").iterdir()} == {*stems, "classes"}
    assert cv2.imread(str(out / "one.jpg")).shape == (1, 1, 3)
    found = json.loads((out / "one.json").read_text())["objects"]
    assert found and {thing["class"] for thing in found} == {wanted}
    assert "in 4 images" in capsys.readouterr().out


def test_the_results_of_a_training_stay(work_dir, demo_data):
    (work_dir / "results.json").write_text("{}")
    file = sorted((demo_data / "val2017").glob("*.jpg"))[0]
    call(file, "--model", work_dir, "--out", work_dir, "--score", 0.1, "--format", "coco")
    assert (work_dir / "results.json").read_text() == "{}"
    assert json.loads((work_dir / "results_2.json").read_text())
    (work_dir / "results.json").unlink()


def test_scores_below_that_of_the_config(checkpoint, demo_data):
    file = sorted((demo_data / "val2017").glob("*.jpg"))[0]
    few = {"model.test_cfg.rcnn.score_thr": 0.3}
    lowest = []
    for score in (0.3, 0.02):
        detector = models_mm.Detector(CONFIG, checkpoint, "cpu", score, few)
        lowest.append(detector(file).scores.min(initial=1))
    assert lowest[0] >= 0.3 > lowest[1] >= 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--score", "nan"), "must be a number, 0 to 1, not 'nan'"),
        (("--overlap", "0.3"), "--overlap is of tiles: give --tile too"),
        (("--tile", "64", "--overlap", "128"), "must be a number, 0 to 0.9, not '128'"),
        (("--tile", "0"), "must be a whole number, 32 to 16384, not '0'"),
        (("--format", "xml"), "invalid choice: 'xml'"),
        (("--config", "a.py", "--checkpoint", "a.pth"), "nothing to take from --model"),
        (("--annotations", "truth.json"), "--annotations is for --format coco"),
        (("--format", "pictures", "--no-pictures"), "leaves nothing to write"),
    ],
)
def test_wrong_options(options, message, capsys):
    with pytest.raises(SystemExit) as ended:
        call("1.jpg", "--model", "work", *options)
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_wrong_inputs(work_dir, tmp_path, monkeypatch, demo_data):
    (tmp_path / "bad.mp4").write_text("no video")
    with pytest.raises(UserError, match="bad.mp4 is no video that OpenCV can read"):
        call(tmp_path / "bad.mp4", "--model", work_dir)
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    with pytest.raises(UserError, match="standard input lists no image"):
        call("-", "--model", work_dir)
    image = sorted((demo_data / "val2017").glob("*.jpg"))[0]
    with pytest.raises(UserError, match="no class 'stars'; did you mean star"):
        call(image, "--model", work_dir, "--classes", "stars", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_video_that_is_cut_off(tmp_path, capsys):
    video = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 25, (128, 96))
    for value in range(40):
        writer.write(np.random.default_rng(value).integers(0, 255, (96, 128, 3), np.uint8))
    writer.release()
    assert len(list(frames_of(video, "clip"))) == 40 and not capsys.readouterr().err
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    number = len(list(frames_of(video, "clip")))
    said = capsys.readouterr().err
    assert 10 < number < 30 and f"clip.avi: only {number} of 40 frames can be read" in said


def test_an_image_of_100_megapixels(detector):
    """Its masks would take gigabytes: refused in a line, before they are made."""
    huge = np.broadcast_to(np.uint8(90), (10_000, 10_000, 3))
    with pytest.raises(UserError, match="10000x10000 pixels: .* with --tile they do"):
        detector(huge)


def long_video(folder: Path) -> Path:
    """150 frames of noise."""
    rng = np.random.default_rng(0)
    video = folder / "clip.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 25, (320, 240))
    for _ in range(150):
        writer.write(rng.integers(0, 255, (240, 320, 3), np.uint8))
    writer.release()
    return video


@pytest.mark.slow
def test_a_kill_in_the_middle_of_a_video(work_dir, tmp_path):
    """Every line of JSON is of a frame that can be played."""
    video, out = long_video(tmp_path), tmp_path / "out"
    options = ("--model", work_dir, "--out", out, "--format", "pictures", "json", "--device", "cpu")
    process = subprocess.Popen([sys.executable, ROOT / "tools/predict.py", video, *options])
    lines = out / "clip.jsonl"
    while process.poll() is None and not (lines.exists() and lines.read_bytes().count(b"\n") > 4):
        time.sleep(0.1)
    assert process.poll() is None
    process.kill()
    process.wait()
    written = [json.loads(line) for line in lines.read_text().splitlines()]
    assert 4 < len(written) < 150 and [line["frame"] for line in written] == [*range(len(written))]
    clip, played = cv2.VideoCapture(str(out / "clip.mp4")), 0
    while clip.read()[0]:
        played += 1
    assert len(written) <= played <= len(written) + 1


@pytest.mark.slow
def test_memory_stays_flat(work_dir, run_tool, tmp_path):
    """Frame 150 needs no more than frame 30, whatever is written."""
    video = long_video(tmp_path)
    program = f"""
import models_mm, resource
from models_mm.cli import predict
from models_mm.visualization import prediction_files
add, peaks = prediction_files.JsonFiles.add, []
def watched(self, source, found):
    add(self, source, found)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
prediction_files.JsonFiles.add = watched
predict.main({[str(video), "--model", str(work_dir), "--device", "cpu", "--score", "0.1"]!r}
    + {["--out", str(tmp_path / "out"), "--format", "pictures", "json", "coco", "csv", "yolo"]!r}
    + ["--cfg-options", "model.test_cfg.rcnn.max_per_img=5"])
print("peaks", peaks[30], peaks[-1])
"""
    done = run_tool(sys.executable, "-c", program, timeout=1800)
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split("peaks")[1].split())
    assert after - before < 30_000, (before, after)  # kB
