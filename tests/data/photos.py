"""The same labelled photos in each format, written here as the definition of the format says."""

import json
from pathlib import Path

import cv2
import numpy as np

CLASSES = ("apple", "nut", "pear")  # sorted
# name -> width, height, objects: class, and x, y, width, height in whole pixels
PHOTOS = {
    "a.jpg": (64, 48, [("pear", (0, 0, 10, 12)), ("apple", (20, 10, 44, 38))]),
    "b.jpg": (48, 96, [("nut", (7, 5, 31, 77))]),
    "c.jpg": (101, 67, []),  # nothing to see
    "d.png": (333, 41, [("apple", (1, 1, 331, 39)), ("nut", (332, 40, 1, 1))]),
}
VAL = ("b.jpg", "c.jpg")


def write_image(file: Path, width: int, height: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(width).integers(0, 255, (height, width, 3), np.uint8)
    assert cv2.imwrite(str(file), noise)


def part_of(name: str, val: tuple[str, ...]) -> str:
    return "val" if name in val else "train"


def yolo_line(thing, width: int, height: int) -> str:
    name, (x, y, w, h) = thing
    values = (x + w / 2) / width, (y + h / 2) / height, w / width, h / height
    return " ".join([str(CLASSES.index(name)), *(f"{value:.6f}" for value in values)])


def write_yolo(folder: Path, photos=None, val=VAL) -> Path:
    for name, (width, height, things) in (photos or PHOTOS).items():
        part = part_of(name, val)
        write_image(folder / "images" / part / name, width, height)
        if things:
            lines = [yolo_line(thing, width, height) for thing in things]
            write(folder / "labels" / part / f"{Path(name).stem}.txt", "\n".join(lines) + "\n")
    parts = f"train: images/train\n{'val: images/val' if val else ''}\n"
    write(folder / "data.yaml", f"{parts}names: [{', '.join(CLASSES)}]\n")
    return folder


def write_voc(folder: Path, photos=None, val=VAL) -> Path:
    photos = photos or PHOTOS
    for name, (width, height, things) in photos.items():
        write_image(folder / "JPEGImages" / name, width, height)
        write(folder / f"Annotations/{Path(name).stem}.xml", voc_xml(name, width, height, things))
    for part in ("train", "val") if val else ():
        stems = [Path(name).stem for name in photos if part_of(name, val) == part]
        write(folder / f"ImageSets/Main/{part}.txt", "\n".join(stems) + "\n")
    return folder


def voc_xml(name: str, width: int, height: int, things) -> str:
    objects = "".join(
        f"<object><name>{label}</name><difficult>0</difficult>\n<bndbox><xmin>{x + 1}</xmin>"
        f"<ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>\n"
        for label, (x, y, w, h) in things
    )
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>\n<filename>{name}</filename>\n{size}\n{objects}</annotation>\n"


def coco_content(photos) -> dict:
    """Ids and orders are not those of the other formats."""
    categories = [{"id": 7 * (i + 1), "name": name} for i, name in enumerate(CLASSES[::-1])]
    ids = {category["name"]: category["id"] for category in categories}
    images, annotations = [], []
    for i, (name, (width, height, things)) in enumerate(reversed(photos.items())):
        images.append({"id": 50 - i, "file_name": name, "width": width, "height": height})
        for label, box in reversed(things):
            entry = {"id": 900 - len(annotations), "image_id": 50 - i, "category_id": ids[label]}
            area = float(box[2] * box[3])
            annotations.append({**entry, "bbox": [float(v) for v in box], "area": area})
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(folder: Path, photos=None, val=VAL) -> Path:
    photos = photos or PHOTOS
    for part in ("train", "val") if val else ("train",):
        own = {name: photo for name, photo in photos.items() if part_of(name, val) == part}
        for name, (width, height, _) in own.items():
            write_image(folder / f"{part}2017" / name, width, height)
        file = folder / f"annotations/instances_{part}2017.json"
        write(file, json.dumps(coco_content(own)))
    return folder


def write(file: Path, content: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    return file


WRITERS = {"coco": write_coco, "yolo": write_yolo, "voc": write_voc}
