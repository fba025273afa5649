#!/usr/bin/env python
"""Draw a small instance segmentation data set in the exact layout of COCO 2017.

It is for trying a whole training run - loading, learning, evaluation, visualisation - in minutes
and without a download. A number reached on it says that the machinery works, nothing about how a
model does on photographs.

    OUT/annotations/instances_{train,val}2017.json
    OUT/train2017/000000000001.jpg ...
    OUT/val2017/000000500001.jpg ...

What COCO has, this has: images lying and upright, images without any object, objects that hide
one another (an annotation covers the visible part, in several polygons where it falls apart),
crowds (`iscrowd` 1, uncompressed RLE) and category ids with gaps.

Every image is drawn from its own seed, (seed, split, index): image 7 of val is the same however
many images are asked for, and two runs with the same libraries write the same bytes.
"""

import argparse
import json
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import _checkout  # noqa: F401  isort: skip
import cv2
import numpy as np
from pycocotools import mask as mask_utils

VERSION = 3  # raise it when the same arguments draw something else: old folders are then not reused
SPLITS = {"train": 0, "val": 500_000}  # first image id less one; ids are unique across splits
MAX_IMAGES = 100_000
MIN_SIDE, MAX_SIDE = 96, 4096
# Gaps in the ids, as in COCO: code that takes an id for a label shall fail here already.
CATEGORIES = [
    {"supercategory": "round", "id": 1, "name": "ellipse"},
    {"supercategory": "convex", "id": 2, "name": "rectangle"},
    {"supercategory": "convex", "id": 4, "name": "triangle"},
    {"supercategory": "concave", "id": 5, "name": "star"},
    {"supercategory": "concave", "id": 8, "name": "cross"},
]
EMPTY_EVERY, CROWD_EVERY = 20, 8  # by index, not by chance, so that a small set has them too
OBJECTS = (1, 6)  # an image, both ends included
DIAMETER = (0.2, 0.75)  # of the circle around a shape, in units of the image's short side
MIN_VISIBLE = {False: 0.4, True: 0.6}  # part of an object (of a crowd) that always stays in sight
MIN_PIXELS = 64
HUE_SPREAD = 13  # standard deviation, of a circle of 180 shared by the categories
JPEG_QUALITY = 95


@dataclass
class Thing:
    """An object or a crowd on the picture; `mask` loses what later things cover."""

    category: dict
    mask: np.ndarray  # (H, W) bool, the visible part
    full_area: float
    polygon: list | None = None  # x, y, x, y, ... as long as it is still exactly `mask`
    crowd: bool = False


def unit_shape(rng, name):
    """Corners (n, 2) of a shape within the circle of radius 1 around the origin."""
    if name == "ellipse":
        angles = np.arange(40) * (2 * np.pi / 40)
        return np.stack([np.cos(angles), np.sin(angles) * rng.uniform(0.6, 1)], axis=1)
    if name == "rectangle":
        angle = rng.uniform(0.45, np.pi / 4)  # sides from about 1:2 to the square
        return np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * [np.cos(angle), np.sin(angle)]
    if name == "triangle":
        angles = np.arange(3) * (2 * np.pi / 3) + rng.uniform(-0.3, 0.3, 3)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)
    if name == "star":
        angles = np.arange(10) * (np.pi / 5)
        radii = np.where(np.arange(10) % 2, rng.uniform(0.38, 0.5), 1)
        return np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]
    if name == "cross":
        thin = rng.uniform(0.25, 0.38)
        arm = np.array([[1, -thin], [1, thin], [thin, thin]]) / np.hypot(1, thin)
        quarter = np.array([[0, 1], [-1, 0]])  # rows times this: a turn by 90 degrees
        return np.concatenate([arm @ np.linalg.matrix_power(quarter, i) for i in range(4)])
    raise ValueError(f"no shape called {name!r}")


def random_polygon(rng, name, centre, diameter):
    """A shape turned and placed, rounded as in COCO: what is written is what is drawn."""
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return np.round(unit_shape(rng, name) @ turn * (diameter / 2) + centre, 2)


def rasterise(points, height, width):
    """The pixels that pycocotools gives a polygon: its opinion is the one evaluation uses."""
    rles = mask_utils.frPyObjects([points.ravel().tolist()], height, width)
    return mask_utils.decode(rles)[..., 0].astype(bool)


def new_colour(rng, taken, category):
    """The one of a few random colours that is farthest from those already on the picture.

    A category leans to a hue of its own, as fruit does; neighbours on the colour circle overlap.
    """
    middle = 180 * CATEGORIES.index(category) / len(CATEGORIES)  # OpenCV counts hues to 180
    hue = rng.normal(middle, HUE_SPREAD, 6) % 180
    hsv = np.stack([hue, rng.uniform(110, 255, 6), rng.uniform(110, 255, 6)], axis=1)
    candidates = cv2.cvtColor(hsv[None].astype(np.uint8), cv2.COLOR_HSV2BGR)[0].astype(float)
    gaps = np.linalg.norm(candidates[:, None] - np.array(taken)[None], axis=2).min(axis=1)
    return candidates[gaps.argmax()]


def texture(rng, height, width, colour, strength):
    """(H, W, 3) of `colour` and a neighbour of it, mixed by a random pattern."""
    other = np.clip(colour + strength * rng.choice([-1, 1], 3) * rng.uniform(0.3, 1, 3), 0, 255)
    angle, period = rng.uniform(0, np.pi), rng.uniform(6, 20)
    y, x = np.mgrid[:height, :width]
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    pattern = rng.choice(["plain", "gradient", "stripes", "checks", "blotches"])
    if pattern == "plain":
        mix = np.zeros((height, width))
    elif pattern == "gradient":
        mix = (along - along.min()) / max(np.ptp(along), 1)
    elif pattern == "stripes":
        mix = (np.sin(along * 2 * np.pi / period) > 0).astype(float)
    elif pattern == "checks":
        mix = ((along // period + across // period) % 2).astype(float)
    else:
        coarse = rng.uniform(0, 1, (int(height // period) + 2, int(width // period) + 2))
        mix = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return colour + mix[..., None] * (other - colour)


def paint(rng, image, mask, colour, strength):
    """Fill the mask with a texture; only its box is touched, which keeps large images fast."""
    if not mask.any():
        return
    x, y, w, h = bounding_box(mask)
    box = np.s_[y : y + h, x : x + w]
    image[box][mask[box]] = texture(rng, h, w, colour, strength)[mask[box]]


def stays_visible(thing, mask):
    return mask.sum() >= max(MIN_PIXELS, MIN_VISIBLE[thing.crowd] * thing.full_area)


def random_thing(rng, height, width):
    short = min(height, width)
    category = CATEGORIES[rng.integers(len(CATEGORIES))]
    diameter = short * np.exp(rng.uniform(*np.log(DIAMETER)))
    points = random_polygon(rng, category["name"], rng.uniform(0, [width, height]), diameter)
    inside = (points >= 0).all() and (points <= [width, height]).all()
    polygon = points.ravel().tolist() if inside else None
    return Thing(
        category,
        rasterise(points, height, width),
        cv2.contourArea(points.astype(np.float32)),
        polygon,
    )


def draw_crowd(rng, image, taken):
    """Many tiny shapes of one category in a heap, annotated as one region as COCO does it."""
    height, width = image.shape[:2]
    short = min(height, width)
    category = CATEGORIES[rng.integers(len(CATEGORIES))]
    middle = rng.uniform(0.25, 0.75, 2) * [width, height]
    union = np.zeros((height, width), bool)
    for _ in range(rng.integers(14, 26)):
        centre = middle + rng.normal(0, 0.09 * short, 2)
        diameter = short * rng.uniform(0.05, 0.09)
        mask = rasterise(random_polygon(rng, category["name"], centre, diameter), height, width)
        paint(rng, image, mask, new_colour(rng, taken, category), strength=0)
        union |= mask
    return Thing(category, union, float(union.sum()), crowd=True)


def draw_scene(rng, height, width, objects, crowd):
    """Returns the image (H, W, 3) uint8 and its things, from the rearmost to the foremost.

    A shape that would hide another too much, or be too far outside, is placed anew instead of
    being drawn and left out of the annotations: whatever can be seen is annotated.
    """
    # Muted, so that a hue says something about what is in front of it.
    taken = [rng.uniform(50, 205) + rng.uniform(-35, 35, 3)]
    image = texture(rng, height, width, taken[0], strength=50)
    things = [draw_crowd(rng, image, taken)] if crowd else []
    wanted, attempts = len(things) + objects, 20 * objects
    while len(things) < wanted and attempts:
        attempts -= 1
        new = random_thing(rng, height, width)
        fits = stays_visible(new, new.mask)
        if not fits or not all(stays_visible(old, old.mask & ~new.mask) for old in things):
            continue
        for old in things:
            if (old.mask & new.mask).any():
                old.mask, old.polygon = old.mask & ~new.mask, None
        taken.append(new_colour(rng, taken, new.category))
        paint(rng, image, new.mask, taken[-1], strength=60)
        things.append(new)
    # A lens and a sensor: without them the hard edges are a cue no photograph has.
    image = cv2.GaussianBlur(image, (3, 3), 0.6) + rng.normal(0, rng.uniform(2, 8), image.shape)
    return np.clip(np.round(image), 0, 255).astype(np.uint8), things


def bounding_box(mask):
    """x, y, w, h of the pixels; pixel i covers i to i + 1, as in COCO."""
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(v) for v in (xs[0], ys[0], xs[-1] + 1 - xs[0], ys[-1] + 1 - ys[0])]


def outlines(mask):
    """COCO polygons along the pixel edges, which pycocotools turns back into exactly this mask.

    cv2.findContours walks through pixel centres and so loses half a pixel all around. On a mask
    enlarged twice the centre 2 i (or 2 i + 1) lies beside the left (right) edge of pixel i, and
    halving it upwards gives that edge. A COCO polygon cannot have a hole: a mask with one is cut in
    two through the hole.
    """
    doubled = np.kron(mask, np.ones((2, 2))).astype(np.uint8)
    found, tree = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    loops = [(loop.reshape(-1, 2) + 1) // 2 for loop in found]
    for loop, (_, _, _, parent) in zip(loops, tree.reshape(-1, 4) if loops else [], strict=True):
        if parent >= 0:
            cut = (loop[:, 0].min() + loop[:, 0].max() + 1) // 2
            left = np.arange(mask.shape[1]) < cut
            return outlines(mask & left) + outlines(mask & ~left)
    corners = [loop[(loop != np.roll(loop, 1, axis=0)).any(axis=1)] for loop in loops]
    return [loop.astype(float).ravel().tolist() for loop in corners]


def run_lengths(mask):
    """Uncompressed RLE: lengths of runs down the columns, the first one of background."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff([0, *changes, flat.size]).tolist()
    return {"counts": [0, *counts] if flat[0] else counts, "size": list(mask.shape)}


def annotate(thing, annotation_id, image_id):
    if thing.crowd:
        segmentation = run_lengths(thing.mask)
    else:
        segmentation = [thing.polygon] if thing.polygon else outlines(thing.mask)
    return {
        "segmentation": segmentation,
        "area": float(thing.mask.sum()),
        "iscrowd": int(thing.crowd),
        "image_id": image_id,
        "bbox": [float(value) for value in bounding_box(thing.mask)],
        "category_id": thing.category["id"],
        "id": annotation_id,
    }


def make_image(seed, split, index, size):
    """Image `index` of a split: the encoded JPEG, its entry and its annotations."""
    rng = np.random.default_rng([seed, list(SPLITS).index(split), index])
    long, short = max(size), min(size)
    short = min(long, round(short * rng.uniform(0.85, 1.1)))
    width, height = (short, long) if rng.random() < 0.3 else (long, short)
    empty = index % EMPTY_EVERY == EMPTY_EVERY - 1
    objects = 0 if empty else int(rng.integers(OBJECTS[0], OBJECTS[1] + 1))
    crowd = not empty and index % CROWD_EVERY == CROWD_EVERY // 2
    picture, things = draw_scene(rng, height, width, objects, crowd)
    done, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise RuntimeError("this OpenCV cannot write JPEG")
    image_id = SPLITS[split] + index + 1
    name = f"{image_id:012d}.jpg"
    image = {"license": 1, "file_name": name, "height": height, "width": width, "id": image_id}
    # 100 ids an image: unique across splits, and the same however many images there are.
    annotations = [annotate(t, image_id * 100 + i, image_id) for i, t in enumerate(things)]
    return jpeg.tobytes(), image, annotations


def make_split(folder, split, parameters):
    """Write the images and the annotation file of one split below `folder`."""
    pictures = folder / f"{split}2017"
    pictures.mkdir()
    content = {
        "info": {
            "description": "Drawn shapes in the layout of COCO 2017",
            "version": str(VERSION),
            "year": 2017,  # no date of today: two runs write the same bytes
            "parameters": parameters,
        },
        "licenses": [{"id": 1, "name": "drawn by tools/make_demo_coco.py", "url": ""}],
        "images": [],
        "annotations": [],
        "categories": CATEGORIES,
    }
    for index in range(parameters[split]):
        jpeg, image, annotations = make_image(parameters["seed"], split, index, parameters["size"])
        (pictures / image["file_name"]).write_bytes(jpeg)
        content["images"].append(image)
        content["annotations"] += annotations
    annotation_file(folder, split).write_text(json.dumps(content), encoding="utf-8")


def annotation_file(folder, split):
    return folder / "annotations" / f"instances_{split}2017.json"


def read_split(out, split):
    """The annotation file's content, or None where this tool did not write it."""
    try:
        content = json.loads(annotation_file(out, split).read_text(encoding="utf-8"))
        return content if content["info"]["parameters"]["tool"] == "make_demo_coco" else None
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None


def holds(out, parameters):
    """Whether the folder has just this data set, with all its images."""
    for split in SPLITS:
        content = read_split(out, split)
        names = [image["file_name"] for image in content["images"]]
        if content["info"]["parameters"] != parameters:
            return False
        if not all((out / f"{split}2017" / name).is_file() for name in names):
            return False
    return True


def make_dataset(out, parameters):
    """Draw beside `out` and move it in when whole: a run that is stopped leaves no half set."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        made = Path(scratch)
        (made / "annotations").mkdir()
        for split in SPLITS:
            make_split(made, split, parameters)
        out.mkdir(exist_ok=True)
        for name in ("annotations", *(f"{split}2017" for split in SPLITS)):
            if (out / name).exists():
                shutil.rmtree(out / name)
            shutil.move(made / name, out / name)


def whole_number(low, high):
    def parse(text):
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {low} to {high}")
        return int(text)

    return parse


def image_size(text):
    match = re.fullmatch(r"(\d+)[xX](\d+)", text)
    size = [int(side) for side in match.groups()] if match else [0]
    if not MIN_SIDE <= min(size) <= max(size) <= MAX_SIDE:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no WIDTHxHEIGHT such as 256x192, with sides from {MIN_SIDE} to {MAX_SIDE}"
        )
    return size


def parse_args(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, count, seed = parser.add_argument, whole_number(1, MAX_IMAGES), whole_number(0, 2**32 - 1)
    add("out", type=Path, metavar="OUT", help="folder of the data set, made if missing")
    add("--train", type=count, default=400, metavar="N", help="training images (%(default)s)")
    add("--val", type=count, default=100, metavar="N", help="validation images (%(default)s)")
    size_help = """about the size of an image (%(default)s): the long side is kept, the short one
        varies from 85 to 110%%, and three images in ten stand upright"""
    add("--size", type=image_size, default="256x192", metavar="WxH", help=size_help)
    add("--seed", type=seed, default=0, help="another seed, other images (%(default)s)")
    overwrite_help = """draw over a set that this tool has made; without it a set made with the same
        arguments is left as it is, and one made with others is an error"""
    add("--overwrite", action="store_true", help=overwrite_help)
    return parser.parse_args(argv)


def already_there(out, parameters, overwrite):
    """Whether there is nothing to do; ends the program rather than touch what is not ours."""
    if out.exists() and not out.is_dir():
        sys.exit(f"{out} is a file; a folder is needed.")
    if not out.exists() or not any(out.iterdir()):
        return False
    if not all(read_split(out, split) for split in SPLITS):
        sys.exit(
            f"{out} is not empty and was not made by this tool: it is left alone. "
            "Choose another folder."
        )
    if overwrite:
        return False
    if not holds(out, parameters):
        sys.exit(
            f"{out} holds another data set of this tool, or an incomplete one. "
            "Choose another folder, or draw over it with --overwrite."
        )
    return True


def main(argv=None):
    args = parse_args(argv)
    parameters = {"tool": "make_demo_coco", "version": VERSION}
    parameters |= {key: getattr(args, key) for key in ("train", "val", "size", "seed")}
    try:
        if already_there(args.out, parameters, args.overwrite):
            print(f"{args.out} already holds this data set; nothing to do.")
            return
        make_dataset(args.out, parameters)
    except OSError as error:
        sys.exit(f"{args.out} cannot be written: {error}")
    for split in SPLITS:
        content = read_split(args.out, split)
        crowds = sum(annotation["iscrowd"] for annotation in content["annotations"])
        images, objects = len(content["images"]), len(content["annotations"]) - crowds
        print(f"{args.out}/{split}2017: {images} images, {objects} objects, {crowds} crowds")


if __name__ == "__main__":
    main()
