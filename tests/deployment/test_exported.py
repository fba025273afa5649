"""An exported detector finds what the detector finds, without PyTorch and MMDetection."""

import json
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import models_mm
from models_mm.cli import export, predict, test
from models_mm.deployment.triton import write_repository
from models_mm.errors import UserError

from ..drawn import data_options
from ..mmdet2.test_plain_detector import detector, photos

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.slow,
    *(
        pytest.mark.skipif(__import__("importlib.util").util.find_spec(name) is None, reason=name)
        for name in ("onnx", "onnxscript", "onnxruntime")
    ),
]
# What the environment of an exported detector lacks.
BLOCKED = (
    *("torch", "torchvision", "timm", "mmcv", "mmdet", "PIL", "matplotlib", "pycocotools"),
    *("hotcoco", "scipy", "addict", "yaml", "safetensors", "filelock", "tensorboard", "tqdm"),
)
WITHOUT = f"import sys\nsys.modules.update(dict.fromkeys({BLOCKED!r}))\n"
one_detector = pytest.mark.parametrize("exported", ["mask"], indirect=True)
two_detectors = pytest.mark.parametrize("exported", ["mask", "retina"], indirect=True)


@pytest.fixture(
    scope="module",
    params=["mask", "mask with soft NMS", "retina", "faster", "cascade", "retina of detectron2"],
)
def exported(request, tmp_path_factory):
    """A detector in PyTorch and its ONNX file, verified on drawn photos."""
    folder = tmp_path_factory.mktemp("exported")
    own, weights = detector(folder, request.param)
    config, out = Path(weights).with_suffix(".py"), folder / "detector.onnx"
    export.main([str(config), weights, "--out", str(out), "--verify"])
    return own, out


def same(expected, found) -> None:
    """Two lists of objects of a photo are equal."""
    assert len(expected) == len(found) > 0
    assert expected.names == found.names
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.01)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    assert (expected.masks is None) == (found.masks is None)
    if expected.masks is not None:
        assert (expected.masks ^ found.masks).mean() <= 1e-3


def test_the_same_objects_are_found(exported):
    """One photo at a time, and photos of several sizes in one batch."""
    own, file = exported
    other = models_mm.Detector(file, score_thr=0.0, providers=["cpu"])
    assert other.classes == own.classes
    for photo in photos():
        same(own(photo), other(photo))
    for one, two in zip(own.batch(photos()), other.batch(photos()), strict=True):
        same(one, two)


def test_proposals_of_the_lowest_probabilities(tmp_path):
    """ONNX Runtime rounds them to zero; mmdet uses them if there are no better ones."""
    _, weights = detector(tmp_path, "mask")
    content = torch.load(weights)
    content["state_dict"]["rpn_head.rpn_cls.bias"] -= 30
    torch.save(content, weights)
    files, out = (Path(weights).with_suffix(".py"), weights), tmp_path / "detector.onnx"
    export.main([*map(str, files), "--out", str(out)])
    own = models_mm.Detector(*files, "cpu", score_thr=0.0)
    for photo in photos():
        same(own(photo), models_mm.Detector(out, score_thr=0.0, providers=["cpu"])(photo))


@one_detector
def test_threads_find_what_one_finds(exported):
    other = models_mm.Detector(exported[1], score_thr=0.0, providers=["cpu"])
    expected = [other(photo) for photo in photos()]
    with ThreadPoolExecutor(4) as pool:
        for i, found in enumerate(pool.map(other, photos() * 8)):
            assert np.array_equal(found.boxes, expected[i % 3].boxes)
            assert np.array_equal(found.scores, expected[i % 3].scores)


@two_detectors
def test_without_pytorch_and_mmdetection(exported, tmp_path):
    """Python and the command, in a process that cannot import them."""
    own, file = exported
    photo = tmp_path / "photo.png"
    cv2.imwrite(str(photo), photos()[0])
    program = (
        "import models_mm\n"
        f"found = models_mm.Detector({str(file)!r}, score_thr=0.0)({str(photo)!r})\n"
        f"found.draw({str(tmp_path / 'drawn.png')!r})\n"
        "print(found.boxes.tolist())\n"
        "from models_mm.cli.main import main\n"
        f"sys.argv[1:] = ['predict', {str(photo)!r}, '--model', {str(file)!r}, '--score-thr', '0', "
        f"'--out', {str(tmp_path / 'out')!r}]\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT + program], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    boxes = json.loads(done.stdout.splitlines()[0])
    np.testing.assert_allclose(boxes, own(photo).boxes, atol=0.01)
    assert cv2.imread(str(tmp_path / "drawn.png")).shape == photos()[0].shape
    written = json.loads((tmp_path / "out/predictions.json").read_text())
    assert len(written["annotations"]) == len(boxes)


@two_detectors
def test_options_of_predict(exported, tmp_path):
    """Tiles, batches, a video and all formats: the same files with the same objects."""
    own, file = exported
    (tmp_path / "photos").mkdir()
    for number, photo in enumerate(photos()):
        cv2.imwrite(str(tmp_path / f"photos/{number}.png"), photo)
    video = cv2.VideoWriter(
        str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 48)
    )
    for frame in photos()[:1] * 3:
        video.write(frame)
    video.release()
    files = next(map(str, file.parent.glob("*.py"))), next(map(str, file.parent.glob("*.pth")))
    pytorch = ("--config", files[0], "--checkpoint", files[1], "--device", "cpu")
    options = ("--score", "0", "--format", "pictures", "json", "coco", "csv", "yolo")
    name = own(photos()[0]).names[0]
    for more in ((), ("--batch", "2", "--classes", name), ("--tile", "40")):
        found = []
        for out, model in (("a", pytorch), ("b", ("--model", file, "--providers", "cpu"))):
            folder = tmp_path / "".join(more[:1]) / out
            inputs = tmp_path / "photos", tmp_path / "clip.avi"
            predict.main([*map(str, (*inputs, *model, "--out", folder, *options, *more))])
            found.append(folder)
        names = [sorted(x.relative_to(folder) for x in folder.rglob("*")) for folder in found]
        assert names[0] == names[1] and len(names[0]) > 12
        lists = []
        for folder in found:
            documents = [json.loads(name.read_text()) for name in sorted(folder.glob("[0-2].json"))]
            lines = (folder / "clip.jsonl").read_text().splitlines()
            lists.append([x["objects"] for x in [*documents, *map(json.loads, lines)]])
        assert any(lists[0])
        for pair in zip(*lists, strict=True):  # the order of objects with equal scores may differ
            expected, objects = (sorted(x, key=place) for x in pair)
            assert [x["class"] for x in objects] == [x["class"] for x in expected]
            for key, tolerance in (("score", 1e-4), ("box", 0.02)):  # rounded to two digits
                np.testing.assert_allclose(
                    [x[key] for x in objects], [x[key] for x in expected], atol=tolerance
                )


def place(thing: dict) -> tuple:
    """Class and box of an object, for sorting."""
    return thing["class"], *np.round(thing["box"], 1)


@one_detector
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no picture", "is no image, or a damaged one"),
        (b"", "is empty: 0 bytes"),
        (
            b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 40_000, 40_000, 1, 24, *[0] * 6),
            "cannot be decoded: error: .* CV_IO_MAX_IMAGE_PIXELS",
        ),
        (cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes()[:300], "is damaged"),
    ],
    ids=["text", "empty", "100 megapixels", "truncated"],
)
def test_bad_photos(exported, tmp_path, content, message):
    other = models_mm.Detector(exported[1], providers=["cpu"])
    (tmp_path / "photo.jpg").write_bytes(content)
    with pytest.raises(UserError, match=message):
        other(tmp_path / "photo.jpg")


@one_detector
@pytest.mark.parametrize(
    "photo",
    [
        np.full((1, 1, 3), 9, np.uint8),
        np.random.default_rng(0).integers(0, 256, (40, 50), np.uint8),
        np.random.default_rng(0).integers(0, 256, (40, 50, 4), np.uint8),
        np.random.default_rng(0).integers(0, 2**16, (40, 50, 3), np.uint16),
        np.random.default_rng(0).integers(0, 256, (10, 600, 3), np.uint8),
    ],
    ids=["1x1", "grey", "RGBA", "16 bit", "long"],
)
def test_unusual_photos(exported, tmp_path, photo):
    """A file of any kind of pixels is read as OpenCV reads it; arrays must be BGR of uint8."""
    own, file = exported
    other = models_mm.Detector(file, score_thr=0.0, providers=["cpu"])
    cv2.imwrite(str(tmp_path / "photo.png"), photo)
    expected, found = own(tmp_path / "photo.png"), other(tmp_path / "photo.png")
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    if photo.shape[:2] != (1, 1):  # which has equal scores in many places
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.01)
    if photo.shape[2:] != (3,) or photo.dtype != np.uint8:
        with pytest.raises(UserError, match="an image must be BGR pixels"):
            other(photo)


@one_detector
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(checkpoint="a.pth"), "is exported: leave checkpoint out"),
        (dict(device="cuda"), "is exported: leave device out"),
        (dict(providers=["gpu"]), "provider 'gpu': must be one of cpu, cuda, tensorrt, openvino"),
        (dict(providers=["tensorrt"]), "provider tensorrt is not part of the installed"),
    ],
)
def test_wrong_settings(exported, settings, message):
    with pytest.raises(UserError, match=message):
        models_mm.Detector(exported[1], **settings)


def test_files_that_are_no_exported_detector(tmp_path):
    import onnx

    with pytest.raises(UserError, match="exported detector not found"):
        models_mm.Detector(tmp_path / "nowhere.onnx")
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(UserError, match="text.onnx cannot be run"):
        models_mm.Detector(tmp_path / "text.onnx")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([node], "g", [value], [out])
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10
    )
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(UserError, match="was not written by `models_mm export`"):
        models_mm.Detector(tmp_path / "other.onnx")


def test_metrics_are_those_of_the_detector(exported, demo_data, tmp_path, monkeypatch):
    file = exported[1]
    monkeypatch.chdir(tmp_path)
    settings = ["--eval", "bbox", *data_options(demo_data)]
    (config,), (weights,) = ([*map(str, file.parent.glob(f"*.{end}"))] for end in ("py", "pth"))
    found = []
    for start in ([config, weights], [str(file), "--config", config, "--providers", "cpu"]):
        test.main([*start, "--work-dir", str(tmp_path / str(len(found))), *settings])
        (written,) = (tmp_path / str(len(found))).glob("eval_*.json")
        found.append(json.loads(written.read_text())["metric"])
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        assert found[1][name] == pytest.approx(value, abs=5e-4) or isinstance(value, str)


@one_detector
def test_a_config_of_another_preparation(exported, demo_data, tmp_path):
    file = exported[1]
    config = tmp_path / "config.py"
    config.write_text(next(file.parent.glob("*.py")).read_text())
    with config.open("a") as text:
        text.write("\ndata['test']['pipeline'][1]['img_scale'] = (72, 56)\n")
    options = ["--config", str(config), "--work-dir", str(tmp_path / "out"), "--eval", "bbox"]
    with pytest.warns(UserWarning, match=r"with scale \(.*\), .*config.py with \(72, 56\)"):
        test.main([str(file), *options, *data_options(demo_data)])


@two_detectors
def test_a_repository_of_triton(exported, tmp_path):
    """The configuration is valid by the server's own schema, and names what the file has."""
    service = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    from google.protobuf import text_format

    folder = write_repository(tmp_path / "models", exported[1])
    assert (folder / "1/model.onnx").read_bytes() == exported[1].read_bytes()
    config = text_format.Parse((folder / "config.pbtxt").read_text(), service.ModelConfig())
    assert config.name == "detector" and config.max_batch_size > 1
    assert [value.name for value in config.input] == ["images", "image_sizes", "original_sizes"]
    assert list(config.input[0].dims) == [3, -1, -1] and list(config.input[1].dims) == [2]
    outputs = {value.name: value for value in config.output}
    assert list(outputs["count"].dims) == [1] and not outputs["count"].reshape.shape
    with pytest.raises(UserError, match="is not empty"):
        write_repository(tmp_path / "models", exported[1])


def test_only_operators_of_onnx(exported):
    """No runtime needs a plugin; RoiAlign says how it samples; TopK has a constant k.

    The names of the folders of this machine, which the exporter's stack traces have, are not there.
    """
    import onnx

    assert str(ROOT).encode() not in exported[1].read_bytes()
    graph = onnx.load(exported[1]).graph
    constants = {value.name for value in graph.initializer}
    constants |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
    for node in graph.node:
        assert node.domain == "", node
        if node.op_type == "RoiAlign":
            assert "sampling_ratio" in {attribute.name for attribute in node.attribute}
        if node.op_type == "TopK":
            assert node.input[1] in constants
