"""Labelled images are drawn, so that one can see whether the labels fit."""

import random
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from models_mm.data.formats.labels import DataSet, LabelledImage, Part
from models_mm.data.images import check_size, read_image
from models_mm.data.sources import files_of
from models_mm.errors import UserError
from models_mm.outputs import Outputs
from models_mm.visualization.pictures import draw, picture_path, write_picture

LONGEST = 1280  # pixels of a side; larger images are drawn smaller
MAX_MASKS = 100  # per picture, which bounds the memory; further objects get a box only


def draw_labels(
    data: DataSet, out: str | Path, number: int, seed: int
) -> tuple[list[Path], list[str]]:
    """Write pictures of some images with their boxes, classes and masks.

    Args:
        data: the labelled images.
        out: the folder of the pictures, made if need be.
        number: how many images of each part; they are chosen at random.
        seed: another seed gives other images.

    Returns:
        The pictures, and a message for each image that cannot be drawn.

    Raises:
        UserError: no image can be drawn.
    """
    places = Outputs(out, files_of(data))
    chosen, unread, pictures = random.Random(seed), [], []
    names = data.classes
    if any(thing["iscrowd"] for part in data.parts.values() for thing in part.objects()):
        names += tuple(f"{name} (crowd)" for name in names)
    for name, part in data.parts.items():
        for image in chosen.sample(part.images, min(number, len(part.images))):
            try:
                picture = labelled_picture(part, image, names)
            except UserError as error:
                unread.append(str(error))
                continue
            pictures.append(picture_path(places, f"{name}/{image.name}"))
            write_picture(picture, pictures[-1])
    if not pictures:
        raise UserError(unread[0] if unread else "there are no images to draw")
    return pictures, unread


def labelled_picture(part: Part, image: LabelledImage, names: tuple[str, ...]) -> np.ndarray:
    """An image with its labels, BGR (H, W, 3), at most ``LONGEST`` pixels high and wide.

    Args:
        part: that has the image.
        image: with its objects.
        names: of the classes, and of the crowds of each class if there are crowds.

    Raises:
        UserError: the image cannot be read, or has another size than its labels say.
    """
    path = part.folder / image.name
    pixels = read_image(path)
    check_size(str(path), pixels, {"width": image.width, "height": image.height})
    scale = min(1, LONGEST / max(image.width, image.height))
    if scale < 1:
        size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    boxes = np.array([thing["bbox"] for thing in image.objects], np.float64).reshape(-1, 4)
    boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1) * scale
    crowds = {thing["class"]: f"{thing['class']} (crowd)" for thing in image.objects}
    shown = [crowds[t["class"]] if t["iscrowd"] else t["class"] for t in image.objects]
    labels = np.array([names.index(name) for name in shown], np.int64)
    with_mask = [i for i, thing in enumerate(image.objects) if "segmentation" in thing][:MAX_MASKS]
    masks = [
        mask_of(image.objects[i]["segmentation"], image, pixels.shape[:2], scale) for i in with_mask
    ]
    rest = np.setdiff1d(np.arange(len(boxes)), with_mask)
    picture = draw(pixels, boxes[rest], labels[rest], None, names)
    return draw(picture, boxes[with_mask], labels[with_mask], np.array(masks), names)


def mask_of(
    mask: list | dict, image: LabelledImage, shape: tuple[int, int], scale: float
) -> np.ndarray:
    """The pixels (H, W) of a mask in a picture.

    Args:
        mask: polygons or run lengths.
        image: that the mask belongs to.
        shape: height and width of the picture.
        scale: of the picture to the image.
    """
    if isinstance(mask, list):
        scaled = [[value * scale for value in polygon] for polygon in mask]
        return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(scaled, *shape))) > 0
    if isinstance(mask["counts"], list):
        mask = coco_mask.frPyObjects(mask, image.height, image.width)
    return cv2.resize(coco_mask.decode(mask), shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
