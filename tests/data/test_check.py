"""tools/check_dataset.py: the ways in which a data set can be wrong, each with its message."""

import contextlib
import json
import os
import re
import shutil
import traceback
import warnings
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as coco_mask
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models_mm.data.annotations import load
from models_mm.data.check import HARMLESS, check_coco
from models_mm.data.fields import mask_fault
from models_mm.errors import UserError

from ..soak.mutations import ODD, PICTURES

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("ellipse", "rectangle", "triangle", "star", "cross")


@pytest.fixture
def data(demo_data, tmp_path) -> Path:
    """A sound data set that a test may spoil."""
    return shutil.copytree(demo_data, tmp_path / "data")


def changed(data: Path, spoil) -> str:
    """Spoil a data set; returns its annotation file."""
    content = json.loads(annotations(data).read_text())
    spoil(content, data / "train2017")
    annotations(data).write_text(json.dumps(content))
    return str(annotations(data))


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


def without(field: str):
    def apply(content, folder):
        del first(content)[field]

    return apply


def edit_image(**values):
    def apply(content, folder):
        content["images"][0].update(values)

    return apply


def rename_to(name):
    def apply(content, folder):
        content["categories"][0]["name"] = name

    return apply


def odd_entries(content, folder):
    content["images"][0] = None
    content["annotations"][1] = "a\x1b"


def no_objects(content, folder):
    content["annotations"] = []


def with_unlink(file: Path, make) -> None:
    file.unlink()
    make(file)


def loop(file: Path) -> None:
    file.symlink_to(file.name)


def device(file: Path) -> None:
    file.symlink_to("/dev/zero")


def bomb(file: Path) -> None:
    PICTURES["bomb"](file, None, b"")


def lengths(*counts):
    """Run lengths of the first object; a text is COCO's compressed form."""

    def apply(content, folder):
        thing = first(content)
        (image,) = [image for image in content["images"] if image["id"] == thing["image_id"]]
        size = [image["height"], image["width"]]
        said = counts[0] if isinstance(counts[0], str) else list(counts)
        thing.update(segmentation={"size": size, "counts": said}, iscrowd=1)

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
    (edit(bbox=None), "bad bbox", "annotations[0] (id 100): bbox: None is not x, y, width"),
    (edit(bbox=[1, 2, 3, 1e308]), "bad bbox", "1e+308] is not"),
    (edit(bbox=[1, 2, 3, 10**4200]), "bad bbox", "000] is not"),
    (edit(bbox=[1, 2, [3], 4]), "bad bbox", "[1, 2, [3], 4] is not"),
    (edit(id="7"), "bad id", "annotations[0] (id 7): id: 7 is not a whole number"),
    (edit(id=True), "bad id", "id: True is not a whole number"),
    (edit(image_id=1.0), "bad image_id", "image_id: 1.0 is not a whole number"),
    (edit(category_id=[1]), "bad category_id", "category_id: [1] is not a whole number"),
    (edit(area=None), "bad area", "area: None is not a number"),
    (edit(area=float("nan")), "bad area", "area: nan is not a number"),
    (without("area"), "bad area", "annotations[0] (id 100): area: missing"),
    (edit(iscrowd="no"), "bad iscrowd", "iscrowd: no is neither 0 nor 1"),
    (edit_image(id=1.0), "bad id", "images[0] (id 1.0): id: 1.0 is not a whole number"),
    (edit_image(file_name=5), "bad file_name", "images[0] (id 1): file_name: 5 is not a text"),
    (edit_image(file_name="\ud800.jpg"), "bad file_name", "'\\ud800.jpg' has characters"),
    (edit_image(file_name="a\0.jpg"), "bad file_name", "'a\\x00.jpg' has a zero byte"),
    (edit_image(file_name="a" * 5000), "missing image", "File name too long"),
    (edit_image(width="128"), "bad width", "images[0] (id 1): width: 128 is not a whole number"),
    (edit_image(height=0), "bad height", "height: 0 is not a whole number of pixels from 1"),
    (edit_image(height=10**9), "bad height", "height: 1000000000 is not"),
    (edit_image(width=2**19, height=2**19), "bad width", "width, height: more than"),
    (rename_to(None), "bad name", "categories[0] (id 1): name: None is not a text"),
    (rename_to(""), "bad name", "categories[0] (id 1): name:  is not a text"),
    (odd_entries, "bad images", "images[0]: None is not an object with fields"),
    (odd_entries, "bad annotations", "annotations[1]: 'a\\x1b' is not an object with fields"),
    (edit(segmentation=[[1e9, 1, 5, 5, 9, 1e9]]), "bad segmentation", "numbers of at most 1048576"),
    (edit(segmentation=[[float("nan")] * 6]), "bad segmentation", "a list of numbers of at most"),
    (edit(segmentation=[[10**400] * 6]), "bad segmentation", "a list of numbers of at most"),
    (edit(segmentation=[[0, 0, 2**20, 2**20] * 9]), "bad segmentation", "longer than 4194304"),
    (edit(segmentation="1"), "bad segmentation", "1 is neither polygons nor run lengths"),
    (lengths("oooo"), "bad segmentation", "its run lengths do not fill the image"),
    (lengths("\ud800"), "bad segmentation", "its run lengths do not fill the image"),
    (lengths(5, -5), "bad segmentation", "its run lengths do not fill the image"),
    (lengths(2**40), "bad segmentation", "its run lengths do not fill the image"),
    (lengths(None), "bad segmentation", "counts [None] are no run lengths"),
    (edit(segmentation={"size": [10**9] * 2, "counts": "0"}), "bad segmentation", "its size is"),
    (edit(segmentation=[[300, 300, 310, 300, 310, 310]]), "empty mask", "segmentation: no pixel"),
    (no_objects, "nothing to use", "none with an object of a used category"),
    (image_file(lambda file: with_unlink(file, os.mkfifo)), "missing image", "not a file"),
    (image_file(lambda file: with_unlink(file, Path.mkdir)), "missing image", "not a file"),
    (image_file(lambda file: with_unlink(file, loop)), "missing image", "symbolic link"),
    (image_file(lambda file: with_unlink(file, device)), "missing image", "not a file"),
    (image_file(bomb), "corrupt image", "cannot be decoded"),
]


@pytest.mark.parametrize(
    ("spoil", "kind", "message"), FAULTS, ids=[f"{i}-{f[1]}" for i, f in enumerate(FAULTS)]
)
def test_each_fault_is_found_and_named(data, spoil, kind, message):
    changed(data, spoil)
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
        ("null", "it has no list of 'images'"),
        ("[" * 200_000, "is nested too deep"),
        ("1" * 5000, "is not JSON: Exceeds the limit"),
    ],
)
def test_a_file_that_is_not_coco(data, content, message):
    annotations(data).write_text(content)
    with pytest.raises(UserError, match=message):
        check(data)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_any_encoding_of_json(data, encoding):
    text = annotations(data).read_text()
    annotations(data).write_bytes(text.encode(encoding))
    assert not [problem for problem in check(data) if problem[0] not in HARMLESS]
    assert load(str(annotations(data)))["images"] == json.loads(text)["images"]


@pytest.mark.parametrize("change", [lambda i: -i, lambda i: i - 1, lambda i: i * 10**30])
def test_whole_numbers_of_any_size_are_ids(data, change):
    def apply(content, folder):
        for image in content["images"]:
            image["id"] = change(image["id"])
        for annotation in content["annotations"]:
            annotation["image_id"] = change(annotation["image_id"])

    load(changed(data, apply))
    assert not [problem for problem in check(data) if problem[0] not in HARMLESS]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (edit(id="7"), r"annotations\[0\] \(id 7\): id: 7 is not a whole number"),
        (edit(bbox=None), r"annotations\[0\] \(id 100\): bbox: None is not x, y"),
        (edit_image(width="128"), r"images\[0\] \(id 1\): width: 128 is not"),
        (duplicate("images"), r"images 1: id: 2 times"),
        (same_name_twice, r"categories named star: name: 2 times"),
        (edit(segmentation=[[1e9] * 6]), r"\(id 100\): segmentation: a polygon is not"),
        (without("segmentation"), r"annotations\[0\] \(id 100\): segmentation: there is none"),
    ],
)
def test_loading_refuses_by_file_entry_and_field(data, spoil, message):
    file = changed(data, spoil)
    with pytest.raises(UserError, match=re.escape(file) + ": .*" + message):
        load(file, NAMES, masks="pixels")


def test_loading_fills_in_and_leaves_out(data):
    """Where no masks are trained, one that would crash pycocotools is not handed on."""
    file = changed(data, edit(segmentation=[[1e9] * 6]))
    with pytest.warns(UserWarning, match=r"1 masks cannot be used and are left out.*\(id 100\)"):
        content = load(file)
    assert "segmentation" not in content["annotations"][0]
    content = load(changed(data, without("iscrowd")))
    assert content["annotations"][0]["iscrowd"] == 0


def test_run_lengths_as_text_are_understood():
    """What pycocotools writes is sound; what it cannot decode is found."""
    generator = np.random.default_rng(0)
    for _ in range(300):
        height, width = generator.integers(1, 40, 2).tolist()
        mask = generator.random((height, width)) < generator.random()
        image = {"height": height, "width": width}
        rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        sound = {"size": [height, width], "counts": rle["counts"].decode()}
        assert mask_fault(sound, image) is None
        spoilt = bytearray(rle["counts"])
        spoilt[generator.integers(len(spoilt))] = generator.integers(48, 112)
        spoilt = {"size": [height, width], "counts": spoilt.decode()}
        try:
            coco_mask.decode(spoilt)
            decodes = True
        except ValueError:
            decodes = False
        assert decodes or mask_fault(spoilt, image)


json_values = st.recursive(
    st.sampled_from(ODD) | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=7)
        | st.dictionaries(st.sampled_from(["size", "counts", "id"]), inner, max_size=3)
    ),
    max_leaves=8,
)


def test_no_json_crashes_the_check(data, tmp_path):
    """Any value at any place: problems or one UserError, in a process that may crash."""
    original = annotations(data).read_text()

    @settings(max_examples=200, deadline=None, database=None)
    @given(st.data())
    def never_raises(draw):
        content = json.loads(original)
        for _ in range(draw.draw(st.integers(1, 3))):
            put(content, draw)
        annotations(data).write_text(json.dumps(content))
        try:
            for problem in check_coco(str(annotations(data)), "", NAMES, masks="pixels"):
                assert f"{problem.where} {problem.detail}".isprintable(), problem
        except UserError as error:
            assert str(annotations(data)) in str(error)
        with contextlib.suppress(UserError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load(str(annotations(data)), NAMES)

    pid = os.fork()
    if not pid:
        code = 1
        try:
            never_raises()
            code = 0
        except BaseException:
            (tmp_path / "why.txt").write_text(traceback.format_exc(), errors="backslashreplace")
        os._exit(code)
    status = os.waitpid(pid, 0)[1]
    assert status == 0, (status, (tmp_path / "why.txt").read_text())


def put(content, draw) -> None:
    """A value drawn at random at a place drawn at random."""
    place = content
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw.draw(st.sampled_from(keys))
        inner = place[key]
        if not isinstance(inner, (dict, list)) or not inner or draw.draw(st.integers(0, 3)) == 0:
            place[key] = draw.draw(json_values)
            return
        place = inner


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
