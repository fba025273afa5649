"""Labelled photos in the formats of COCO, YOLO and Pascal VOC: read, and converted."""

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from models_mm.data.annotations import load
from models_mm.data.conversion import convert, write_annotations
from models_mm.data.sources import load_data
from models_mm.errors import UserError

from .photos import (
    CLASSES,
    PHOTOS,
    WRITERS,
    coco_content,
    voc_xml,
    write,
    write_coco,
    write_image,
    write_voc,
    write_yolo,
)


def boxes(data, part="train") -> dict[str, list]:
    """Class and box of each object, by image."""
    return {
        image.name: [(thing["class"], *thing["bbox"]) for thing in image.objects]
        for image in data.parts[part].images
    }


EXPECTED = {
    name: [(label, *box) for label, box in things] for name, (_, _, things) in PHOTOS.items()
}


@pytest.mark.parametrize("form", WRITERS)
def test_each_format_as_it_is_defined(tmp_path, form):
    data = load_data(WRITERS[form](tmp_path / "data"))
    assert data.classes == CLASSES and data.format == form.upper() and data.masks == "none"
    found = {**boxes(data), **boxes(data, "val")}
    assert {name: sorted(things) for name, things in found.items()} == {
        name: sorted(things) for name, things in EXPECTED.items()
    }
    assert [image.name for image in data.parts["val"].images] == ["b.jpg", "c.jpg"]
    sizes = {image.name: (image.width, image.height) for image in data.parts["train"].images}
    assert sizes == {"a.jpg": (64, 48), "d.png": (333, 41)}


def test_equal_labels_give_equal_files_in_all_formats(tmp_path):
    written = set()
    for form, write_form in WRITERS.items():
        data = load_data(write_form(tmp_path / form))
        files = write_annotations(data, tmp_path / f"out_{form}")
        written.add((files["train"].read_bytes(), files["val"].read_bytes()))
        load(str(files["train"]), CLASSES)
    assert len(written) == 1


def test_what_was_written_is_a_source_itself(tmp_path):
    data = load_data(write_voc(tmp_path / "voc"))
    write_annotations(data, tmp_path / "out")
    again = load_data(tmp_path / "out")
    assert again.format == "description" and again.classes == CLASSES
    for part in ("train", "val"):
        assert again.content(part) == data.content(part)
        assert again.parts[part].paths() == data.parts[part].paths()
        listed = (tmp_path / f"out/{part}.txt").read_text().split()
        assert listed == [image.name for image in data.parts[part].images]


# --- YOLO


def one_photo(folder: Path, labels: str, settings: str = "names: [cat, dog]") -> Path:
    """A data set of YOLO with one image of 100 x 50 pixels."""
    write_image(folder / "images/a.jpg", 100, 50)
    write(folder / "labels/a.txt", labels)
    return write(folder / "data.yaml", f"train: images\n{settings}\n")


@pytest.mark.parametrize(
    "names", ["{0: cat, 1: dog}", "[cat, dog]", "\n  1: dog\n  0: cat", "\n- cat\n- dog\nnc: 2"]
)
def test_yolo_names_are_a_list_or_a_mapping(tmp_path, names):
    data = load_data(one_photo(tmp_path, "1 0.5 0.5 0.2 0.2", f"names: {names}"))
    assert boxes(data) == {"a.jpg": [("dog", 40, 20, 20, 10)]}


def test_yolo_boxes_and_polygons_in_one_file(tmp_path):
    data = load_data(one_photo(tmp_path, "0 0.1 0.2 0.5 0.2 0.5 0.8\n\n1 0.5 0.5 1 1\n"))
    polygon, box = data.parts["train"].images[0].objects
    assert polygon["segmentation"] == [[10, 10, 50, 10, 50, 40]] and polygon["area"] == 600
    assert polygon["bbox"] == [10, 10, 40, 30]
    assert box["bbox"] == [0, 0, 100, 50] and "segmentation" not in box
    assert data.masks == "some"


def test_yolo_pixels_are_rounded_to_a_tenth(tmp_path):
    data = load_data(one_photo(tmp_path, "0 0.500049 0.5 0.2 0.2\n0 0.5004 0.5 0.2 0.2"))
    assert [box[1] for box in boxes(data)["a.jpg"]] == [40, 40]
    data = load_data(one_photo(tmp_path, "0 0.5036 0.5 0.2 0.2"))
    assert boxes(data)["a.jpg"] == [("cat", 40.4, 20, 20, 10)]


def test_yolo_paths(tmp_path, monkeypatch):
    """Folders, list files and lists of them; `path`; Roboflow's `../`; labels beside images."""
    write_yolo(tmp_path / "data")
    expected = boxes(load_data(tmp_path / "data"))
    write(tmp_path / "data/train.txt", "./images/train/a.jpg\n\nimages/train/d.png\n")
    for number, train in enumerate(
        ["images/train", "[images/train]", "train.txt", "[train.txt, images/train]"]
    ):
        for path in ("", "path: data\n", f"path: {tmp_path}/data\n"):
            place = tmp_path if path == "path: data\n" else tmp_path / "data"
            file = write(place / f"{number}.yaml", f"{path}train: {train}\nnames: {list(CLASSES)}")
            assert boxes(load_data(file)) == expected, (path, train)
    roboflow = write(tmp_path / "data/images/r.yaml", f"train: ../train\nnames: {list(CLASSES)}")
    assert boxes(load_data(roboflow)) == expected
    flat = tmp_path / "flat"
    shutil.copytree(tmp_path / "data/images/train", flat)
    for labels in (tmp_path / "data/labels/train").iterdir():
        shutil.copy(labels, flat)
    write(flat / "data.yaml", f"train: .\nnames: {list(CLASSES)}")
    assert boxes(load_data(flat)) == expected


def test_yolo_folders_below_and_several_folders(tmp_path):
    for place in ("one", "two/deep"):
        write_image(tmp_path / f"images/{place}/a.jpg", 100, 50)
        write(tmp_path / f"labels/{place}/a.txt", "0 0.5 0.5 0.2 0.2")
    for train in ("images", "[images/one, images/two]"):
        write(tmp_path / "data.yaml", f"train: {train}\nnames: [cat]")
        assert list(boxes(load_data(tmp_path))) == ["one/a.jpg", "two/deep/a.jpg"]


def test_images_without_labels_are_counted(tmp_path):
    data = load_data(write_yolo(tmp_path, val=()))
    assert boxes(data)["c.jpg"] == []
    assert "1 of 4 images have no file of labels and count as images without" in data.notes[0]


def test_labels_fit_the_image_as_it_is_shown(tmp_path):
    """A camera held upright: the file has 80 x 40 pixels and is shown with 40 x 80."""
    write(tmp_path / "labels/a.txt", "0 0.25 0.5 0.5 0.5")
    write(tmp_path / "data.yaml", "train: images\nnames: [cat]")
    (tmp_path / "images").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 40)).save(tmp_path / "images/a.jpg", exif=exif)
    assert cv2.imread(str(tmp_path / "images/a.jpg")).shape == (80, 40, 3)
    assert boxes(load_data(tmp_path)) == {"a.jpg": [("cat", 0, 20, 20, 40)]}


def test_yolo_without_the_images_of_the_test(tmp_path):
    """A test part is left out, or has no labels: no training needs it."""
    write_yolo(tmp_path)
    settings = (tmp_path / "data.yaml").read_text()
    write(tmp_path / "data.yaml", f"{settings}test: images/test\n")
    data = load_data(tmp_path)
    assert set(data.parts) == {"train", "val"} and "test is left out" in data.notes[-1]
    write_image(tmp_path / "images/test/t.jpg", 20, 30)
    assert boxes(load_data(tmp_path), "test") == {"t.jpg": []}


def test_other_json_files_do_not_disturb(tmp_path):
    for form in ("yolo", "voc"):
        WRITERS[form](tmp_path / form)
        write(tmp_path / form / "statistics.json", "{}")
        assert load_data(tmp_path / form).format == form.upper()
        write(tmp_path / form / "instances_all.json", "{}")
        with pytest.raises(UserError, match="has several formats: .*instances_all.json"):
            load_data(tmp_path / form)


# --- Pascal VOC


def test_voc_boxes_hold_exactly_the_pixels_from_first_to_last(tmp_path):
    """VOC counts from 1, and xmax is the last pixel of the object."""
    pixels = np.zeros((50, 100, 3), np.uint8)
    pixels[10:20, 30:70] = 255  # rows 11 to 20, columns 31 to 70 when counted from 1
    (tmp_path / "JPEGImages").mkdir()
    assert cv2.imwrite(str(tmp_path / "JPEGImages/a.png"), pixels)
    box = "<xmin>31</xmin><ymin>11</ymin><xmax>70</xmax><ymax>20</ymax>"
    thing = f"<object><name> cat </name><bndbox>{box}</bndbox></object>"
    write(tmp_path / "Annotations/a.xml", f"<annotation>{thing}</annotation>")
    ((_, x, y, width, height),) = boxes(load_data(tmp_path))["a.png"]
    assert (pixels[y : y + height, x : x + width] == 255).all()
    assert pixels.sum() == 255 * 3 * width * height


def voc_object(**change) -> str:
    fields = dict(xmin=1, ymin=1, xmax=20, ymax=20) | change
    sides = "".join(f"<{key}>{value}</{key}>" for key, value in fields.items() if value is not None)
    return f"<annotation>\n<object>\n<name>cat</name><bndbox>{sides}</bndbox></object></annotation>"


def test_voc_of_tools_that_count_from_0_is_cut_at_the_border(tmp_path):
    write_image(tmp_path / "a.jpg", 100, 50)
    write(tmp_path / "a.xml", voc_object(xmin=0, ymin="0.2", xmax="100.0", ymax=51))
    assert boxes(load_data(tmp_path)) == {"a.jpg": [("cat", 0, 0, 100, 50)]}


def test_voc_lists_choose_the_images(tmp_path):
    write_voc(tmp_path, val=())
    assert set(load_data(tmp_path).parts) == {"train"}
    write(tmp_path / "ImageSets/Main/trainval.txt", "a\nd\n")
    write(tmp_path / "ImageSets/Main/apple_train.txt", "b 1\n")  # one class of the challenge
    write(tmp_path / "ImageSets/Main/test.txt", "b\n")
    data = load_data(tmp_path)
    assert list(boxes(data)) == ["a.jpg", "d.png"] and list(boxes(data, "test")) == ["b.jpg"]


def test_voc_beside_the_images(tmp_path):
    """As LabelImg writes it, and in the folders of Roboflow."""
    write_voc(tmp_path / "voc")
    for part, stems in (("train", "ad"), ("valid", "bc")):
        (tmp_path / "data" / part).mkdir(parents=True)
        for stem in stems:
            for file in (tmp_path / "voc").rglob(f"{stem}.*"):
                shutil.copy(file, tmp_path / "data" / part)
    split, voc = load_data(tmp_path / "data"), load_data(tmp_path / "voc")
    assert [split.content(part) for part in split.parts] == [voc.content(p) for p in voc.parts]
    assert boxes(load_data(tmp_path / "data/train")) == boxes(voc)


def test_voc_difficult_objects_are_neither_trained_on_nor_counted(tmp_path):
    write_image(tmp_path / "a.jpg", 100, 50)
    difficult = voc_object().replace("<name>", "<difficult>1</difficult><name>")
    write(tmp_path / "a.xml", difficult)
    with pytest.raises(UserError, match="train: no image has an object that is no crowd and not"):
        load_data(tmp_path)
    write_image(tmp_path / "b.jpg", 100, 50)
    write(tmp_path / "b.xml", voc_object())
    crowds = [thing["iscrowd"] for thing in load_data(tmp_path).content("train")["annotations"]]
    assert crowds == [1, 0]


def test_voc_folders_below_annotations_are_named(tmp_path):
    for place in ("", "more/"):
        write_image(tmp_path / f"JPEGImages/{place}a.jpg", 100, 50)
        write(tmp_path / f"Annotations/{place}a.xml", voc_object())
    with pytest.raises(UserError, match="Annotations/more: XML files in folders below"):
        load_data(tmp_path)


def test_a_class_without_a_training_object_is_noted(tmp_path):
    write_yolo(tmp_path)
    file = tmp_path / "data.yaml"
    file.write_text(file.read_text().replace("names:", "nc: 3\nnames:"))
    content = yaml.safe_load(file.read_text())
    names = content["names"]
    names = names if isinstance(names, list) else list(names.values())
    content |= {"names": {str(i): name for i, name in enumerate([*names, "lion"])}}
    content["nc"] = len(content["names"])
    file.write_text(yaml.safe_dump(content))
    assert "no object in train of: lion" in load_data(tmp_path).facts()


def test_yolo_lists_may_mix_relative_and_absolute_paths(tmp_path, monkeypatch):
    write_yolo(tmp_path / "set")
    images = sorted((tmp_path / "set/images/train").iterdir())
    lines = [str(images[0]), *(f"./images/train/{image.name}" for image in images[1:])]
    write(tmp_path / "set/list.txt", "\n".join(lines))
    file = tmp_path / "set/data.yaml"
    before = load_data(tmp_path / "set").content("train")
    content = yaml.safe_load(file.read_text()) | {"train": "list.txt"}
    file.write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)
    assert load_data("set").content("train") == before


# --- COCO


@pytest.mark.parametrize(
    "place", ["train2017", "train", "images/train2017", "images/train", "images", "data", ""]
)
def test_coco_images_are_found(tmp_path, place):
    write_coco(tmp_path / "data", val=())
    shutil.move(tmp_path / "data/train2017", tmp_path / "photos")
    shutil.copytree(tmp_path / "photos", tmp_path / "data" / place, dirs_exist_ok=True)
    file = tmp_path / "data/annotations/instances_train2017.json"
    for source in (file, tmp_path / "data"):
        assert load_data(source).parts["train"].folder == tmp_path / "data" / place
    shutil.rmtree(tmp_path / "data" / place)
    write(file, json.dumps(coco_content(PHOTOS)))
    with pytest.raises(UserError, match="file_name: d.png is in none of .*--images"):
        load_data(file)
    assert load_data(file, tmp_path / "photos").parts["train"].folder == tmp_path / "photos"
    with pytest.raises(UserError, match="file_name: d.png is not in .*, and 3 more images"):
        load_data(file, tmp_path)


def test_coco_beside_other_files_of_coco(tmp_path):
    write_coco(tmp_path)
    for name in ("captions_train2017", "person_keypoints_val2017"):
        write(tmp_path / f"annotations/{name}.json", "{}")
    assert set(load_data(tmp_path).parts) == {"train", "val"}


def test_coco_of_roboflow(tmp_path):
    """The project as a category without objects; empty masks; no area."""
    content = coco_content(PHOTOS)
    for annotation in content["annotations"]:
        annotation["segmentation"] = []
        del annotation["area"]
    for category in content["categories"]:
        category["supercategory"] = "fruit"
    content["categories"].append({"id": 0, "name": "fruit", "supercategory": "none"})
    write(tmp_path / "train/_annotations.coco.json", json.dumps(content))
    for name, (width, height, _) in PHOTOS.items():
        write_image(tmp_path / "train" / name, width, height)
    data = load_data(tmp_path)
    assert data.classes == CLASSES and data.masks == "none"
    assert "'fruit' has no objects and is the supercategory of others" in data.notes[0]
    assert data.content("train") == load_data(write_yolo(tmp_path / "y", val=())).content("train")


def test_coco_keeps_crowds_masks_and_published_coordinates(demo_data):
    data = load_data(demo_data)
    assert data.masks == "all"
    content = json.loads((demo_data / "annotations/instances_train2017.json").read_text())
    fields = ("bbox", "area", "iscrowd", "segmentation")
    theirs = [[annotation[field] for field in fields] for annotation in content["annotations"]]
    ours = [[thing[field] for field in fields] for thing in data.parts["train"].objects()]
    assert sum(crowd for _, _, crowd, _ in ours) >= 1
    assert len(ours) == len(theirs) and all(thing in theirs for thing in ours)


# --- descriptions


def test_a_description_chooses_sources_and_classes(tmp_path):
    write_coco(tmp_path / "coco", val=())
    write_voc(tmp_path / "voc", {name: PHOTOS[name] for name in ("a.jpg", "b.jpg")}, val=())
    file = write(
        tmp_path / "d.yaml",
        "train: coco/annotations/instances_train2017.json\ntrain_images: coco/train2017\n"
        "val: voc\nclasses: [pear, apple]\n",
    )
    data = load_data(file)
    assert data.classes == ("pear", "apple")
    assert boxes(data, "val") == {"a.jpg": EXPECTED["a.jpg"], "b.jpg": []}
    assert [c["name"] for c in data.content("val")["categories"]] == ["pear", "apple"]
    assert "objects of other classes are left out: nut" in data.notes[-1]


def test_a_validation_of_another_source(tmp_path):
    train = write_yolo(tmp_path / "train", val=())
    val = write_voc(tmp_path / "val", {"z.jpg": (64, 48, [("nut", (1, 2, 3, 4))])}, val=())
    data = load_data(train, val=val)
    assert data.classes == CLASSES and boxes(data, "val") == {"z.jpg": [("nut", 1, 2, 3, 4)]}
    write(val / "Annotations/z.xml", voc_xml("z.jpg", 64, 48, [("plum", (1, 2, 3, 4))]))
    with pytest.raises(UserError, match="class 'plum' is not in the training data"):
        load_data(train, val=val)


def test_notes(tmp_path):
    """Classes that differ in case only; images that are in both parts."""
    one_photo(tmp_path, "0 0.5 0.5 0.2 0.2", "names: [cat, Cat]")
    write_image(tmp_path / "more/b.jpg", 100, 50)
    write(
        tmp_path / "data.yaml", "train: images\nval: [images, more]\nnames: [cat, Cat]\npath: gone"
    )
    notes = "\n".join(load_data(tmp_path).notes)
    assert "the classes 'cat' and 'Cat' differ only in upper and lower case" in notes
    assert "1 of 2 images of val are also in train, the first: a.jpg" in notes
    assert "path: there is no folder gone; that of this file is used" in notes


# --- conversion

FORMATS = ("coco", "yolo", "voc")


@st.composite
def photos(draw):
    """Images of any size with whole boxes of any size."""
    found = {}
    for number in range(draw(st.integers(1, 3))):
        width, height = draw(st.integers(1, 5000)), draw(st.integers(1, 40))
        things = []
        for _ in range(draw(st.integers(0, 4))):
            x, y = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
            box = (x, y, draw(st.integers(1, width - x)), draw(st.integers(1, height - y)))
            things.append((draw(st.sampled_from(CLASSES)), box))
        found[f"{number}.png"] = (width, height, things)
    # all classes are there, as VOC has no list of them
    found["all.png"] = (9, 9, [(name, (1, 1, 8, 8)) for name in CLASSES])
    return found


@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=20, deadline=None, database=None)
@given(photos=photos())
def test_whole_boxes_come_back_from_each_format(tmp_path_factory, form, photos):
    place = tmp_path_factory.mktemp("round")
    data = load_data(write_coco(place / "coco", photos, val=()))
    losses = convert(data, form, place / "out")
    again = load_data(place / "out")
    assert again.content("train") == data.content("train") and not losses
    assert load_data(write_yolo(place / "yolo", photos, val=())).content("train") == load_data(
        write_voc(place / "voc", photos, val=())
    ).content("train")


@settings(max_examples=30, deadline=None, database=None)
@given(data=st.data())
def test_polygons_come_back_from_yolo(tmp_path_factory, data):
    """Corners on tenths of a pixel, and the box of the polygon."""
    place = tmp_path_factory.mktemp("polygons")
    width, height = data.draw(st.integers(20, 3000)), 60
    content = coco_content({"a.png": (width, height, [])})
    corner = st.tuples(st.integers(0, 10 * width), st.integers(0, 10 * height))
    for number in range(data.draw(st.integers(1, 3))):
        start = [(0, 0), (10, 200), (200, 10)]  # so that there is an area
        points = [*start, *data.draw(st.lists(corner, max_size=8))]
        xs, ys = ([value / 10 for value in axis] for axis in zip(*points, strict=True))
        bbox = [min(xs), min(ys), round(max(xs) - min(xs), 1), round(max(ys) - min(ys), 1)]
        polygon = [value for point in zip(xs, ys, strict=True) for value in point]
        entry = {"id": number, "image_id": 50, "category_id": 7, "bbox": bbox}
        content["annotations"].append({**entry, "segmentation": [polygon]})
    write_image(place / "train/a.png", width, height)
    write(place / "annotations/train.json", json.dumps(content))
    before = load_data(place)
    if any(thing["area"] == 0 for thing in before.parts["train"].objects()):
        return  # YOLO's reader refuses such a polygon
    assert convert(before, "yolo", place / "out") == []
    assert load_data(place / "out").content("train") == before.content("train")


def test_masks_in_parts_and_run_lengths_become_one_polygon(tmp_path):
    pixels = np.zeros((60, 80), np.uint8)
    pixels[5:20, 5:20] = pixels[30:50, 40:70] = pixels[2:4, 60:75] = 1
    lengths = coco_mask.encode(np.asfortranarray(pixels))
    lengths["counts"] = lengths["counts"].decode()
    parts = [[5, 5, 20, 5, 20, 20, 5, 20], [40, 30, 70, 30, 70, 50, 40, 50]]
    parts += [[60, 2, 75, 2, 75, 4, 60, 4]]
    content = coco_content({"a.png": (80, 60, [("nut", (5, 2, 70, 48))] * 3)})
    for annotation, mask in zip(content["annotations"], (parts, lengths, lengths), strict=True):
        annotation["segmentation"] = mask
    content["annotations"][2]["iscrowd"] = 1
    write_image(tmp_path / "train/a.png", 80, 60)
    write(tmp_path / "annotations/train.json", json.dumps(content))
    losses = convert(load_data(tmp_path), "yolo", tmp_path / "out")
    assert sorted(losses) == [
        "crowds and difficult objects are left out (1)",
        "masks in several parts are joined to one polygon (2)",
    ]
    things = load_data(tmp_path / "out").parts["train"].images[0].objects
    assert len(things) == 2
    for thing in things:
        (polygon,) = coco_mask.frPyObjects(thing["segmentation"], 60, 80)
        assert (coco_mask.decode(polygon) == pixels).all()
        assert thing["bbox"] == [5, 2, 70, 48]


def test_voc_says_what_it_cannot_hold(demo_data, tmp_path):
    data = load_data(demo_data)
    losses = "; ".join(convert(data, "voc", tmp_path / "voc"))
    assert "masks are left out (" in losses
    crowds = [thing["iscrowd"] for thing in data.parts["train"].objects()]
    again = load_data(tmp_path / "voc").parts["train"].objects()
    assert sorted(thing["iscrowd"] for thing in again) == sorted(crowds) and sum(crowds)


@pytest.mark.parametrize("form", ["voc", "yolo"])
def test_boxes_smaller_than_a_pixel_at_the_border(tmp_path, form):
    """In VOC they become the last pixel."""
    things = [("nut", (19.7, 0, 0.3, 10)), ("pear", (0, 9.6, 5, 0.4)), ("apple", (1, 1, 2, 3))]
    data = load_data(write_coco(tmp_path / "coco", {"a.png": (20, 10, things)}, val=()))
    convert(data, form, tmp_path / form)
    found = boxes(load_data(tmp_path / form))["a.png"]
    expected = [("nut", 19, 0, 1, 10), ("pear", 0, 9, 5, 1), ("apple", 1, 1, 2, 3)]
    exact = [(name, *box) for name, box in things]
    assert sorted(found) == sorted(expected if form == "voc" else exact)


def test_a_link_under_the_name_of_an_output_is_replaced(tmp_path, demo_data):
    """Not followed: nothing is written outside of the folder."""
    outside = tmp_path / "outside.yaml"
    outside.write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/data.yaml").symlink_to(outside)
    write_annotations(load_data(demo_data), tmp_path / "out")
    assert outside.read_text() == "mine" and not (tmp_path / "out/data.yaml").is_symlink()


def test_conversion_keeps_the_images(demo_data, tmp_path):
    """As copies, or as links."""
    data = load_data(demo_data)
    for form in FORMATS:
        for link in (False, True):
            out = tmp_path / f"{form}{link}"
            convert(data, form, out, link)
            for part, mine in load_data(out).parts.items():
                theirs = data.parts[part]
                for ours, other in zip(mine.images, theirs.images, strict=True):
                    file = mine.folder / ours.name
                    assert file.is_symlink() is link
                    assert file.read_bytes() == (theirs.folder / other.name).read_bytes()


def test_images_of_one_name_in_several_folders(tmp_path):
    """Each gets labels of its own in formats where names or stems would be the same."""
    photos = {"a.jpg": (64, 48, [("nut", (1, 2, 30, 40))]), "x/a.jpg": (50, 40, [])}
    photos |= {"a.png": (60, 50, [("pear", (5, 6, 7, 8))])}
    data = load_data(write_coco(tmp_path / "coco", photos, val=()))
    for form in ("yolo", "voc"):
        assert any("new names" in loss for loss in convert(data, form, tmp_path / form))
        found = load_data(tmp_path / form).parts["train"].images
        assert sorted((image.width, len(image.objects)) for image in found) == [
            (50, 0),
            (60, 1),
            (64, 1),
        ]


def test_names_of_classes_that_yaml_and_xml_would_change(tmp_path):
    names = ("<&>", "007", "no", "naïve, [x]: #1")
    content = coco_content({"a.png": (80, 60, [])})
    content["categories"] = [{"id": i, "name": name} for i, name in enumerate(names)]
    content["annotations"] = [
        {"id": i, "image_id": 50, "category_id": i, "bbox": [i, i, 9, 9]} for i in range(4)
    ]
    write_image(tmp_path / "train/a.png", 80, 60)
    write(tmp_path / "annotations/train.json", json.dumps(content))
    data = load_data(tmp_path)
    for form in FORMATS:
        convert(data, form, tmp_path / form)
        assert load_data(tmp_path / form).content("train") == data.content("train")
    names_written = yaml.safe_load((tmp_path / "yolo/data.yaml").read_text())["names"]
    assert tuple(names_written.values()) == data.classes


def test_a_conversion_that_fails_leaves_nothing(tmp_path):
    data = load_data(write_yolo(tmp_path / "data"))
    (tmp_path / "data/images/val/c.jpg").unlink()
    with pytest.raises(UserError, match=r"out cannot be written: .*No such file.*c\.jpg"):
        convert(data, "voc", tmp_path / "out")
    write(tmp_path / "full/note.txt", "mine")
    with pytest.raises(UserError, match="full is not empty: give a new folder"):
        convert(data, "voc", tmp_path / "full")
    assert sorted(os.listdir(tmp_path)) == ["data", "full"]
    assert os.listdir(tmp_path / "full") == ["note.txt"]
