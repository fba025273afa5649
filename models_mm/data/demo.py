"""A small instance segmentation data set, drawn in the layout of COCO 2017.

What COCO has, this has: images of both orientations, images without any object, objects that hide
one another (an annotation covers the visible part, in several polygons where it falls apart),
crowds (`iscrowd` 1, uncompressed run lengths) and category ids with gaps.

Every image is drawn from its own seed, (seed, split, index): image 7 of val is the same however
many images are drawn, and two runs with the same libraries write the same bytes.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from pycocotools import mask as mask_utils

from models_mm.errors import UserError

SPLITS = {"train": 0, "val": 500_000}  # first image id less one; ids are unique across splits
# The ids have gaps, as in COCO: code that takes an id for a label fails here already.
CATEGORIES = [
    {"supercategory": "round", "id": 1, "name": "ellipse"},
    {"supercategory": "convex", "id": 2, "name": "rectangle"},
    {"supercategory": "convex", "id": 4, "name": "triangle"},
    {"supercategory": "concave", "id": 5, "name": "star"},
    {"supercategory": "concave", "id": 8, "name": "cross"},
]
EMPTY_EVERY, CROWD_EVERY = 20, 8  # by index, not by chance, so that a small set has them too
OBJECTS = (1, 6)  # per image, both ends included
DIAMETER = (0.2, 0.75)  # of the circle around a shape, in units of the image's short side
MIN_VISIBLE = {False: 0.4, True: 0.6}  # part of an object (of a crowd) that always stays in sight
MIN_PIXELS = 64
HUE_SPREAD = 13  # standard deviation, of a circle of 180 shared by the categories
JPEG_QUALITY = 95


@dataclass
class Thing:
    """An object or a crowd in the picture; its mask loses the pixels that later things cover."""

    category: dict
    mask: np.ndarray  # (H, W) bool, the visible part
    full_area: float
    polygon: list | None = None  # x, y, x, y, ... as long as it is still exactly `mask`
    crowd: bool = False


def on_circle(number, turn=0.0):
    """Points (number, 2) at equal angles on the circle of radius 1, each turned by an angle."""
    angles = np.arange(number) * (2 * np.pi / number) + turn
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def unit_shape(rng, name):
    """Corners (n, 2) of a shape within the circle of radius 1 around the origin."""
    if name == "ellipse":
        return on_circle(40) * [1, rng.uniform(0.6, 1)]
    if name == "rectangle":
        angle = rng.uniform(0.45, np.pi / 4)  # sides from about 1:2 to the square
        return np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * [np.cos(angle), np.sin(angle)]
    if name == "triangle":
        return on_circle(3, rng.uniform(-0.3, 0.3, 3))
    if name == "star":
        return on_circle(10) * np.where(np.arange(10) % 2, rng.uniform(0.38, 0.5), 1)[:, None]
    if name == "cross":
        thin = rng.uniform(0.25, 0.38)
        arm = np.array([[1, -thin], [1, thin], [thin, thin]]) / np.hypot(1, thin)
        quarter = np.array([[0, 1], [-1, 0]])  # rows times this: a turn by 90 degrees
        return np.concatenate([arm @ np.linalg.matrix_power(quarter, i) for i in range(4)])
    raise ValueError(f"no shape called {name!r}")


def random_polygon(rng, name, centre, diameter):
    """Corners (n, 2) of a shape, turned and placed; rounded as in COCO before it is drawn."""
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return np.round(unit_shape(rng, name) @ turn * (diameter / 2) + centre, 2)


def rasterise(points, height, width):
    """Pixels (H, W) of a polygon as pycocotools, and so the evaluation, counts them."""
    rles = mask_utils.frPyObjects([points.ravel().tolist()], height, width)
    return mask_utils.decode(rles)[..., 0].astype(bool)


def new_colour(rng, taken, category):
    """Of a few random colours the one that differs most from those already in the picture.

    Each category prefers a hue; the hues of neighbours overlap.
    """
    middle = 180 * CATEGORIES.index(category) / len(CATEGORIES)  # OpenCV counts hues to 180
    hue = rng.normal(middle, HUE_SPREAD, 6) % 180
    hsv = np.stack([hue, rng.uniform(110, 255, 6), rng.uniform(110, 255, 6)], axis=1)
    candidates = cv2.cvtColor(hsv[None].astype(np.uint8), cv2.COLOR_HSV2BGR)[0].astype(float)
    gaps = np.linalg.norm(candidates[:, None] - np.array(taken)[None], axis=2).min(axis=1)
    return candidates[gaps.argmax()]


def texture(rng, height, width, colour, strength):
    """Pixels (H, W, 3) of a colour and a similar one, mixed by a random pattern."""
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
    """Fill a mask with a texture; only its bounding box is computed, which is fast."""
    if not mask.any():
        return
    x, y, w, h = bounding_box(mask)
    box = np.s_[y : y + h, x : x + w]
    image[box][mask[box]] = texture(rng, h, w, colour, strength)[mask[box]]


def stays_visible(thing, mask):
    """Whether enough of a thing can be seen when only these pixels of it can."""
    return mask.sum() >= max(MIN_PIXELS, MIN_VISIBLE[thing.crowd] * thing.full_area)


def random_thing(rng, height, width):
    """A shape of a random category, size and place, of which a part may be outside the image."""
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
    """Draw many small shapes of one category; COCO annotates such a crowd as one region."""
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
    """Draw an image (H, W, 3) uint8; returns it with its things, the rearmost first.

    A shape that would hide another too much, or that lies too far outside, is not drawn; another
    one is tried instead. So everything that can be seen is annotated.
    """
    # A weak colour: strong ones are those of the things.
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
    # Blur and noise, as of a camera: photographs have no hard edges.
    image = cv2.GaussianBlur(image, (3, 3), 0.6) + rng.normal(0, rng.uniform(2, 8), image.shape)
    return np.clip(np.round(image), 0, 255).astype(np.uint8), things


def bounding_box(mask):
    """x, y, width, height of a mask's pixels; pixel i covers i to i + 1, as in COCO."""
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(v) for v in (xs[0], ys[0], xs[-1] + 1 - xs[0], ys[-1] + 1 - ys[0])]


def outlines(mask):
    """COCO's polygons of a mask, along the edges of pixels: pycocotools gives back the same mask.

    cv2.findContours goes through the centres of pixels and so loses half a pixel on each side. In a
    mask of twice the size the centre 2 i (or 2 i + 1) lies beside the left (right) edge of pixel i,
    and half of it, rounded up, is that edge. COCO's polygons have no holes: a mask with a hole is
    cut in two through the hole.
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
    """Run lengths, uncompressed: along the columns, the first run is background."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *changes, flat.size]).tolist()
    return {"counts": [0, *counts] if flat[0] else counts, "size": list(mask.shape)}


def annotate(thing, annotation_id, image_id):
    """The entry of a thing in COCO's list of annotations."""
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
    """Draw one image of a split: its JPEG, its entry and its annotations in COCO's form."""
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
        raise UserError("this OpenCV cannot write JPEG: install opencv-python-headless")
    image_id = SPLITS[split] + index + 1
    name = f"{image_id:012d}.jpg"
    image = {"license": 1, "file_name": name, "height": height, "width": width, "id": image_id}
    # 100 ids per image: unique across splits, and the same for any number of images.
    annotations = [annotate(t, image_id * 100 + i, image_id) for i, t in enumerate(things)]
    return jpeg.tobytes(), image, annotations
