"""``models_mm data check|convert|split|browse DATA``, as they are typed."""

import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from models_mm.cli.main import dispatch
from models_mm.data.sources import load_data
from models_mm.errors import UserError

from ..data.photos import CLASSES, WRITERS, write, write_coco, write_image, write_voc, write_yolo


@pytest.fixture
def typed(monkeypatch, capsys, tmp_path):
    """Type a command in an empty folder; returns its exit code and what it has printed."""
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.chdir(tmp_path)

    def call(line: str) -> tuple[int, str]:
        try:
            dispatch(line.split())
            code = 0
        except SystemExit as ended:
            code = ended.code
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


def files(folder: str = ".") -> dict[str, bytes]:
    """All files below a folder."""
    found = (path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in found}


@pytest.mark.parametrize("form", WRITERS)
def test_check_says_what_is_in_each_format(typed, form):
    WRITERS[form](Path("photos"))
    code, said = typed("data check photos")
    assert code == 0, said
    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert lines[0].endswith(f"({form.upper()}): 3 classes")
    assert "train: 2 images of 64x48 to 333x41, 4 objects, boxes only" in lines
    assert (
        "val: 2 images of 48x96 to 101x67, 1 object, boxes only, 1 image without objects" in lines
    )
    table = lines[lines.index("objects train val") :][:4]
    assert table[1:] == ["apple 2 0", "nut 1 1", "pear 1 0"]
    assert typed("data check photos --masks")[0] == 1


def test_check_lists_every_fault_by_file_and_line(typed):
    write_yolo(Path("photos"))
    write(Path("photos/labels/train/a.txt"), "0 0.5 0.5 0.1 0.1\n7 0.5 0.5 0.1 0.1\n1 2 a\n")
    file = Path("photos/images/train/d.png")
    file.write_bytes(file.read_bytes()[:-40])
    before = files()
    code, said = typed("data check photos")
    assert code == 1 and files() == before
    assert "labels/train/a.txt:2: class 7: data.yaml has names for the classes 0 to 2" in said
    assert "labels/train/a.txt:3: a is not a number" in said
    assert "d.png: file_name: image photos/images/train/d.png is damaged: it is cut off" in said
    write_coco(Path("coco"))
    content = json.loads(Path("coco/annotations/instances_train2017.json").read_text())
    content["annotations"][0]["bbox"] = None
    write(Path("coco/annotations/instances_train2017.json"), json.dumps(content))
    code, said = typed("data check coco")
    fault = "instances_train2017.json: annotations[0] (id 900): bbox: None is not x, y"
    assert code == 1 and said.count(fault) == 1


def test_check_of_a_json_file_is_as_before(typed, demo_data):
    annotations = demo_data / "annotations/instances_val2017.json"
    code, said = typed(f"data check {annotations} {demo_data}/val2017 --masks")
    assert code == 0 and f"{annotations}, {demo_data}/val2017\n  nothing wrong" in said
    assert "5 images of" in said
    code, said = typed(f"data check {annotations}")
    assert code == 0 and f"{annotations}, images not read\n" in said
    code, said = typed(f"data check {demo_data} --classes star")
    assert code == 2 and "the image folder and --classes are for a JSON file" in said


@pytest.mark.parametrize("form", WRITERS)
def test_convert_there_and_back(typed, form):
    write_voc(Path("photos"))
    code, said = typed(f"data convert photos --to {form} --out out/new")
    assert code == 0 and f"written in {form.upper()}'s format: out/new" in said
    assert {path.split("/")[0] for path in files()} == {"photos", "out"}
    assert os.listdir("out") == ["new"]  # no scratch folder
    ours, theirs = load_data("out/new"), load_data("photos")
    assert [ours.content(part) for part in ours.parts] == [
        theirs.content(part) for part in theirs.parts
    ]
    with pytest.raises(UserError, match="out/new is not empty: give a new folder"):
        typed(f"data convert photos --to {form} --out out/new")


def test_convert_says_what_is_lost(typed, demo_data):
    code, said = typed(f"data convert {demo_data} --to voc --out voc")
    (line,) = [line for line in said.splitlines() if line.startswith("not held by VOC: ")]
    assert code == 0 and "masks are left out" in line


def test_wrong_data_writes_nothing(typed):
    write_yolo(Path("photos"))
    write(Path("photos/labels/train/a.txt"), "7 0.5 0.5 0.1 0.1\n")
    before = files()
    for line in (
        "data convert photos --to coco --out out",
        "data split photos --out out",
        "data browse photos --out out",
    ):
        with pytest.raises(UserError, match="photos/labels/train/a.txt:1: class 7"):
            typed(line)
        assert files() == before and not Path("out").exists()


def test_names_that_lead_outside_write_nothing_there(typed):
    content = {
        "images": [{"id": 1, "file_name": "../../evil.png", "width": 20, "height": 20}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}],
        "categories": [{"id": 1, "name": "../../cat"}],
    }
    write(Path("in/photos/a.json"), json.dumps(content))
    write_image(Path("evil.png"), 20, 20)
    before = files()
    for command in (
        "convert --to yolo",
        "convert --to voc",
        "convert --to coco",
        "split",
        "browse",
    ):
        with pytest.raises(UserError, match=r"file_name: ../../evil.png leads out"):
            typed(f"data {command} in/photos/a.json --images in/photos --out deep/out")
    assert files() == before
    content["images"][0]["file_name"] = "b.png"
    write(Path("in/photos/a.json"), json.dumps(content))
    write_image(Path("in/photos/b.png"), 20, 20)
    before = files()
    for form in ("yolo", "voc", "coco"):  # the class has such a name too
        assert typed(f"data convert in/photos/a.json --to {form} --out deep/{form}")[0] == 0
    new = set(files()) - set(before)
    assert new and all(path.startswith("deep/") for path in new)


def test_split_lists_what_it_has_chosen(typed, demo_data):
    source = f"{demo_data}/annotations/instances_train2017.json"
    code, said = typed(f"data split {source} --val 0.25 --seed 1 --out halves")
    assert code == 0, said
    data = load_data("halves")
    chosen = [image.name for image in data.parts["val"].images]
    assert len(chosen) == 3 and f"val: {', '.join(chosen)}\n" in said
    assert Path("halves/val.txt").read_text().split() == chosen
    assert "val is 3 of the 8 images of train (share 0.25, seed 1, stratified" in said
    whole = load_data(source).parts["train"]
    assert whole.paths() == data.parts["train"].paths() | data.parts["val"].paths()
    typed(f"data split {source} --val 0.25 --seed 1 --out again")
    for name in ("annotations/train.json", "annotations/val.json", "data.yaml", "val.txt"):
        assert Path("halves", name).read_bytes() == Path("again", name).read_bytes()
    assert typed("data check halves")[0] == 0
    with pytest.raises(UserError, match="halves is not empty"):
        typed(f"data split {source} --out halves")
    with pytest.raises(UserError, match="has a val of 3 images: there is nothing to split off"):
        typed("data split halves --out third")
    assert typed(f"data split {source} --val 1.5 --out x")[0] == 2


def test_browse_draws_boxes_and_masks(typed, demo_data):
    code, said = typed(f"data browse {demo_data} --out pictures --number 3")
    assert code == 0 and "6 pictures in pictures" in said
    data, drawn = load_data(demo_data), list(Path("pictures").rglob("*.jpg"))
    assert len(drawn) == 6
    for picture in drawn:
        part = data.parts[picture.parent.name]
        (image,) = [image for image in part.images if image.name == picture.name]
        pixels, original = cv2.imread(str(picture)), cv2.imread(str(part.folder / picture.name))
        changed = np.abs(pixels.astype(int) - original).mean()
        assert (changed > 3) == bool(image.objects), (picture, changed)


def test_browse_makes_large_images_smaller(typed):
    photos = {"a.jpg": (2600, 300, [("nut", (2000, 100, 400, 100))])}
    write_yolo(Path("photos"), photos, val=())
    assert typed("data browse photos --out pictures")[0] == 0
    picture = cv2.imread("pictures/train/a.jpg")
    assert picture.shape == (148, 1280, 3)
    assert {path.split("/")[0] for path in files()} == {"photos", "pictures"}


def test_browse_keeps_the_inputs(typed):
    """Pictures that go to the folder of the images get other names."""
    write_coco(Path("photos"), val=())
    before = files()
    Path("photos/annotations/instances_train2017.json").rename("labels.json")
    assert typed("data browse labels.json --images photos/train2017 --out photos")[0] == 0
    assert all(files().get(path, content) == content for path, content in before.items())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("data convert photos --to xml --out out", "--to: invalid choice: 'xml'"),
        ("data convert photos --out out", "required: --to"),
        ("data convert photos --to voc --out file", "'file' cannot be a folder: file is a file"),
        ("data split photos --out out --seed -1", "--seed: must be a whole number"),
        ("data browse photos --draws 2", "--draws and --cfg-options are for configs"),
        ("data browse photos --out file", "argument --out: 'file' cannot be a folder"),
        ("data browse my.py --images photos", "a config names its images"),
        ("data browse my.py --out a.txt", "argument --out: must be a file ending in .png"),
    ],
)
def test_wrong_options(typed, line, message):
    write(Path("file"), "")
    write_yolo(Path("photos"))
    code, said = typed(line)
    assert code == 2 and message in said


def test_classes_are_named(typed):
    write_yolo(Path("photos"))
    _, said = typed("data check photos/data.yaml")
    assert all(name in said for name in CLASSES)
