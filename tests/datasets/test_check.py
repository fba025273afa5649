"""tools/check_dataset.py: thirty ways in which a data set can be wrong, each with its message."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from models_mm.datasets.check import HARMLESS, check_coco
from models_mm.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("ellipse", "rectangle", "triangle", "star", "cross")


@pytest.fixture
def data(demo_data, tmp_path) -> Path:
    """A sound data set that a test may spoil."""
    return shutil.copytree(demo_data, tmp_path / "data")


def annotations(data: Path) -> Path:
    return data / "annotations" / "instances_train2017.json"


def check(data: Path, classes=NAMES) -> list[tuple[str, str]]:
    found = check_coco(str(annotations(data)), str(data / "train2017"), classes)
    return [(problem.kind, f"{problem.where}: {problem.detail}") for problem in found]


def test_a_sound_data_set(data):
    assert not [problem for problem in check(data) if problem[0] not in HARMLESS]


def polygon(annotation: dict) -> bool:
    return isinstance(annotation["segmentation"], list) and not annotation["iscrowd"]


def first(content: dict) -> dict:
    """The first object that is no crowd."""
    return next(a for a in content["annotations"] if polygon(a))


def edit(**values):
    """Change fields of the first object."""

    def apply(content, folder):
        first(content).update(values)

    return apply


def duplicate(kind: str):
    def apply(content, folder):
        content[kind].append(dict(content[kind][0]))

    return apply


def crowd_as_polygons(content, folder):
    first(content)["iscrowd"] = 1


def without_objects(content, folder):
    one = content["images"][0]["id"]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != one]


def rename_category(content, folder):
    content["categories"][0]["name"] = "elipse"


def same_name_twice(content, folder):
    content["categories"].append({"id": 99, "name": "star"})


def wrong_size(content, folder):
    content["images"][0]["width"] += 7
    content["annotations"] = []


def image_file(change):
    """Change the first image's file."""

    def apply(content, folder):
        change(folder / content["images"][0]["file_name"])

    return apply


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])


def four_channels(content, folder):
    image = content["images"][0]
    image["file_name"] = "four.png"
    pixels = np.zeros((image["height"], image["width"], 4), np.uint8)
    assert cv2.imwrite(str(folder / "four.png"), pixels)


def small(content, folder):
    image = dict(id=10**6, file_name="small.png", width=20, height=20)
    content["images"].append(image)
    assert cv2.imwrite(str(folder / "small.png"), np.zeros((20, 20, 3), np.uint8))


def lengths(*counts: int):
    def apply(content, folder):
        thing = first(content)
        (image,) = [image for image in content["images"] if image["id"] == thing["image_id"]]
        size = [image["height"], image["width"]]
        thing.update(segmentation={"size": size, "counts": list(counts)}, iscrowd=1)

    return apply


FAULTS = [
    (duplicate("images"), "duplicated id", "images 1: id: 2 times"),
    (duplicate("annotations"), "duplicated id", ": id: 2 times"),
    (duplicate("categories"), "duplicated id", "categories 1: id: 2 times"),
    (duplicate("images"), "duplicated image", ".jpg: file_name: 2 times"),
    (rename_category, "class without category", "ellipse: name: the config trains it"),
    (rename_category, "category without class", "elipse: name: its objects are not trained"),
    (same_name_twice, "duplicated category", "categories named star: name: 2 times"),
    (edit(image_id=777777), "unknown image", "(id 100): image_id: no image has the id 777777"),
    (edit(category_id=4711), "unknown category", "category_id: no category has the id 4711"),
    (
        edit(bbox=[1, 2, 3]),
        "bad bbox",
        "annotations[0] (id 100): bbox: [1, 2, 3] is not x",
    ),
    (edit(bbox=[1, 2, 3, float("nan")]), "bad bbox", "nan"),
    (edit(bbox="1 2 3 4"), "bad bbox", "1 2 3 4 is not"),
    (edit(bbox=[5, 5, 0, 10]), "degenerate box", "[5, 5, 0, 10]"),
    (edit(area=0), "degenerate box", "area 0"),
    (edit(bbox=[500, 5, 10, 10]), "box outside", "[500, 5, 10, 10] in"),
    (edit(segmentation=[[1, 2, 30, 40]]), "bad segmentation", "4 numbers are no polygon"),
    (edit(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), "bad segmentation", "7 numbers are no polygon"),
    (edit(segmentation=[["a"] * 6]), "bad segmentation", "not a list of numbers"),
    (edit(segmentation=[]), "bad segmentation", "no polygon"),
    (edit(segmentation={"size": [4, 4], "counts": "1"}), "bad segmentation", "its size is 4x4"),
    (lengths(1, 2, 3), "bad segmentation", "its run lengths do not fill the image"),
    (
        edit(segmentation={"counts": [5]}),
        "bad segmentation",
        "size None is not the height",
    ),
    (crowd_as_polygons, "crowd as polygons", "COCO's crowds are run lengths"),
    (without_objects, "no boxes", "left out of the training"),
    (wrong_size, "wrong size", "its annotation file says"),
    (image_file(Path.unlink), "missing image", "file_name: image not found"),
    (image_file(lambda file: file.write_bytes(b"")), "missing image", "0 bytes"),
    (
        image_file(lambda file: file.write_text("404 Not Found")),
        "corrupt image",
        "is no image, or a damaged one (13 bytes)",
    ),
    (image_file(cut), "corrupt image", "it is cut off"),
    (four_channels, "four channels", "transparency is ignored"),
    (small, "small image", "20x20, left out of the training"),
]


@pytest.mark.parametrize(
    ("spoil", "kind", "message"), FAULTS, ids=[f"{i}-{f[1]}" for i, f in enumerate(FAULTS)]
)
def test_each_fault_is_found_and_named(data, spoil, kind, message):
    content = json.loads(annotations(data).read_text())
    spoil(content, data / "train2017")
    annotations(data).write_text(json.dumps(content))
    said = [text for found, text in check(data) if found == kind]
    assert any(message in text for text in said), check(data)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not JSON"),
        ("\x89PNG", "is not JSON"),
        ("[]", "not in COCO's format: it has no list of 'images'"),
        ('{"images": {}}', "it has no list of 'images'"),
        ('{"images": [], "annotations": []}', "it has no list of 'categories'"),
    ],
)
def test_a_file_that_is_not_coco(data, content, message):
    annotations(data).write_text(content)
    with pytest.raises(UserError, match=message):
        check(data)


def test_the_tool_reports_and_exits(data, run_tool):
    tool = ROOT / "tools/check_dataset.py"
    done = run_tool(tool, annotations(data), data / "train2017", "--classes", *NAMES)
    assert done.returncode == 0, done.stdout
    cut(min((data / "train2017").glob("*.jpg")))
    demo = "configs/demo/mask_rcnn_recnext_tiny_fpn_demo.py"
    paths = (f"data.train.ann_file={annotations(data)}", f"data.train.img_prefix={data}/train2017/")
    done = run_tool(tool, demo, "--split", "train", "--cfg-options", *paths)
    assert done.returncode == 1
    assert "corrupt image: 1\n" in done.stdout and "it is cut off" in done.stdout
    done = run_tool(tool, data / "nowhere.json")
    assert done.returncode == 1 and "nowhere.json cannot be read: No such file" in done.stderr
