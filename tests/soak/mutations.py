"""A small data set, and random faults of its annotations, their file and the images."""

import copy
import json
import math
import os
import random
import shutil
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as coco_mask
from PIL import Image

NAMES = ("ellipse", "rectangle", "triangle", "star", "cross")


def sound(place: Path, generator: random.Random) -> dict:
    """Two or three images with objects of all kinds of masks; returns the annotations."""
    folder = place / "images"
    folder.mkdir(parents=True)
    categories = [{"id": i, "name": name} for i, name in enumerate(NAMES, 1)]
    content: dict = {"images": [], "annotations": [], "categories": categories}
    for number in range(1, generator.randint(2, 3) + 1):
        width, height = generator.choice([(64, 48), (48, 64), (40, 40)])
        pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), np.uint8)
        name = f"{number}.jpg"
        assert cv2.imwrite(str(folder / name), pixels)
        image = {"id": number, "file_name": name, "width": width, "height": height}
        content["images"].append(image)
        for place_in_image in range(generator.randint(1, 3)):
            content["annotations"].append(
                thing(len(content["annotations"]) + 1, image, place_in_image, generator)
            )
    return content


def thing(number: int, image: dict, nth: int, generator: random.Random) -> dict:
    """A rectangular object of an image: polygons, compressed or plain run lengths, or a crowd."""
    left, top = generator.randint(0, 12), generator.randint(0, 12)
    width, height = generator.randint(8, 24), generator.randint(8, 24)
    right, bottom = left + width, top + height
    polygon = [left, top, right, top, right, bottom, left, bottom]
    mask: object = [polygon]
    kind = generator.choice(["polygon", "polygon", "compressed", "plain"])
    if kind != "polygon":
        size = (image["height"], image["width"])
        (encoded,) = coco_mask.frPyObjects([polygon], *size)
        mask = {"size": list(size), "counts": encoded["counts"].decode()}
        if kind == "plain":
            mask["counts"] = run_lengths(coco_mask.decode(encoded))
    return {
        "id": number,
        "image_id": image["id"],
        "category_id": generator.randint(1, len(NAMES)),
        "bbox": [left, top, width, height],
        "area": width * height,
        "iscrowd": int(nth > 0 and generator.random() < 0.2),
        "segmentation": mask,
    }


def run_lengths(mask: np.ndarray) -> list[int]:
    """How many zeros, ones, zeros, ... follow each other, column by column."""
    flat = np.concatenate([[0], mask.ravel("F"), [2]])
    edges = np.flatnonzero(np.diff(flat))
    lengths = np.diff(np.concatenate([[0], edges])).tolist()
    return lengths


SURROGATE = "\ud800"
ODD = [
    *(None, True, False, 0, -1, 1, 7, 2**31, 2**53 + 1, 2**63, 2**70, -(2**40), 10**400),
    *(0.5, -0.0, 3.0, 1e9, 1e30, 1e308, -1e308, math.nan, math.inf, -math.inf),
    *(
        "",
        "a",
        "1",
        "NaN",
        "a\0b",
        SURROGATE,
        "x" * 300,
        "x" * 5000,
        "../1.jpg",
        "/etc",
        "\n\x1b[0m",
    ),
    *([], [[]], {}, [None], [1, 2], ["a"] * 4, [[1, 2, 3, 4]], {"size": 3}, {"a": {"b": []}}),
    [1, 2, 3, 4],
    [1e9, 2, 3, 4],
    [0, 0, -5, 8],
    [0, 0, 0.5, 8],
    [900, 2, 30, 40],
    [-(2.0**20), -(2**20), 2**20, 2**20],
    [math.nan, 1, 2, 3],
]
MASKS = [
    *([[]], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]], [["a"] * 6], [[[1, 2], [3, 4], [5, 6]]]),
    *([[1e9, 1, 5, 5, 9, 1e9]], [[math.nan, 1, 5, 5, 9, 9]], [[1e308] * 6], [[5] * 6], [5, 6]),
    *([[-900, -900, -800, -800, -900, -800]], [[10**400] * 6], [[True] * 6], [None], [{}]),
    [[2.0**20, 1, -(2.0**20), 5, 9, 2.0**20]],
    [[0, 0, 2**20, 2**20] * 50],
    *({"size": [10**9, 10**9], "counts": "0"}, {"size": [48, 64], "counts": "oooo"}),
    *({"size": [48, 64], "counts": [3072]}, {"size": [48, 64], "counts": [5, -5, 3072]}),
    *({"size": [48, 64], "counts": [2**40]}, {"size": [48, 64], "counts": []}),
    *({"size": [48, 64], "counts": ""}, {"size": [48, 64], "counts": None}),
    *({"size": [48, 64], "counts": [1.5, 3070.5]}, {"size": ["48", "64"], "counts": [3072]}),
    *({"size": [48], "counts": [3072]}, {"counts": [1]}, {"size": [48, 64], "counts": "P" * 9}),
    *({"size": [48, 64], "counts": SURROGATE}, {"size": None, "counts": {}}, "polygon", 5, True),
]


def set_field(content: dict, generator: random.Random) -> str:
    """An odd value in a field of an entry."""
    kind = generator.choice(["images", "annotations", "annotations", "categories"])
    entry = generator.choice(content[kind])
    field = generator.choice([key for key in entry if key != "segmentation"])
    entry[field] = copy.deepcopy(generator.choice(ODD))
    return f"{kind}.{field}={entry[field]!r:.60}"


def delete_field(content: dict, generator: random.Random) -> str:
    """An entry without a field."""
    kind = generator.choice(["images", "annotations", "annotations", "categories"])
    entry = generator.choice(content[kind])
    field = generator.choice(list(entry))
    del entry[field]
    return f"no {kind}.{field}"


def delete_field_everywhere(content: dict, generator: random.Random) -> str:
    """Objects without a field that often lacks."""
    field = generator.choice(["iscrowd", "area", "segmentation"])
    for annotation in content["annotations"]:
        annotation.pop(field, None)
    return f"no annotations.{field} at all"


def odd_mask(content: dict, generator: random.Random) -> str:
    """A mask that cannot be."""
    annotation = generator.choice(content["annotations"])
    annotation["segmentation"] = copy.deepcopy(generator.choice(MASKS))
    return f"segmentation={annotation['segmentation']!r:.60}"


def spoilt_run_lengths(content: dict, generator: random.Random) -> str:
    """Run lengths with a character or number changed."""
    masks = [
        a["segmentation"] for a in content["annotations"] if isinstance(a["segmentation"], dict)
    ]
    if not masks:
        return odd_mask(content, generator)
    mask = generator.choice(masks)
    counts = list(mask["counts"])
    new = (
        generator.randint(-5, 5000)
        if isinstance(mask["counts"], list)
        else chr(generator.randint(1, 255))
    )
    counts[generator.randrange(len(counts))] = new
    mask["counts"] = counts if isinstance(mask["counts"], list) else "".join(map(str, counts))
    return f"run lengths with {new!r}"


def duplicate(content: dict, generator: random.Random) -> str:
    """An entry twice, with its own id or another."""
    kind = generator.choice(["images", "annotations", "categories"])
    entry = dict(generator.choice(content[kind]))
    if generator.random() < 0.5:
        entry["id"] = 77
    content[kind].append(entry)
    return f"{kind} twice"


def remove(content: dict, generator: random.Random) -> str:
    """A list without an entry, or without any."""
    kind = generator.choice(["images", "annotations", "categories"])
    if generator.random() < 0.3:
        content[kind].clear()
        return f"empty {kind}"
    del content[kind][generator.randrange(len(content[kind]))]
    return f"a missing entry of {kind}"


def odd_entry(content: dict, generator: random.Random) -> str:
    """An odd value instead of an entry or a list."""
    kind = generator.choice(["images", "annotations", "categories"])
    value = copy.deepcopy(generator.choice(ODD))
    if generator.random() < 0.3:
        content[kind] = value
        return f"{kind}={value!r:.60}"
    content[kind][generator.randrange(len(content[kind]))] = value
    return f"{kind}[i]={value!r:.60}"


def renumber(content: dict, generator: random.Random) -> str:
    """Other ids, consistently: large, negative and zero are legal, others not."""
    kind, field = generator.choice(
        [("images", "image_id"), ("categories", "category_id"), ("annotations", None)]
    )
    change: Callable = generator.choice(
        [
            lambda i: i - 2,
            lambda i: -i,
            lambda i: 2**53 + i,
            lambda i: 2**62 + i,
            lambda i: i * 10**30,
            str,
            float,
            lambda i: [i],
        ]
    )
    for entry in content[kind]:
        entry["id"] = change(entry["id"])
    if field:
        for annotation in content["annotations"]:
            annotation[field] = change(annotation[field])
    return f"{kind} {content[kind][0]['id']!r}, ..."


def harmless(content: dict, generator: random.Random) -> str:
    """What is unusual and legal."""
    choice = generator.randrange(6)
    if choice == 0:
        generator.shuffle(content["categories"])
        return "categories shuffled"
    if choice == 1:
        generator.shuffle(content["annotations"])
        content["info"] = {"year": math.nan, "more": [[[]]]}
        return "annotations shuffled, odd info"
    if choice == 2:
        annotation = generator.choice(content["annotations"])
        annotation["bbox"] = [value + 0.25 for value in annotation["bbox"]]
        return "a box in fractions"
    if choice == 3:
        content["categories"].append({"id": 50, "name": "a/b", "supercategory": None})
        return "another category"
    if choice == 4:
        for annotation in content["annotations"]:
            annotation["iscrowd"] = bool(annotation["iscrowd"])
        return "iscrowd true or false"
    annotation = generator.choice(content["annotations"])
    annotation |= {"ignore": generator.choice([0, 1, None, "x"]), "attributes": {}}
    return "ignore"


CONTENT = [
    *(set_field, set_field, set_field, delete_field, delete_field_everywhere, odd_mask, odd_mask),
    *(spoilt_run_lengths, duplicate, remove, odd_entry, renumber, harmless, harmless),
]


def file_fault(text: str, generator: random.Random) -> tuple[str, bytes]:
    """The JSON file, damaged or in an odd form."""
    small = text.replace('{"id": 1,', '{"id": 1, "id": 1,', 1)
    return generator.choice(
        [
            ("UTF-8 with a mark", text.encode("utf-8-sig")),
            ("UTF-16", text.encode("utf-16")),
            ("Latin-1", text.replace("star", "st\u00e4r").encode("latin-1", "replace")),
            ("cut off", text.encode()[: generator.randrange(len(text))]),
            ("deep", b"[" * 200_000),
            ("deep object", text.encode()[:-1] + b', "x": ' + b'{"a":' * 50_000),
            ("a list", f"[{text}]".encode()),
            ("a number", b"1" * 5000),
            ("large numbers", text.replace('"area": ', '"area": 1' + "0" * 4500, 1).encode()),
            ("the same key twice", small.encode()),
            ("empty", b""),
            ("null", b"null"),
            ("a byte changed", changed_byte(text.encode(), generator)),
        ]
    )


def changed_byte(data: bytes, generator: random.Random) -> bytes:
    place = generator.randrange(len(data))
    return data[:place] + bytes([generator.randrange(256)]) + data[place + 1 :]


def picture_fault(content: dict, folder: Path, generator: random.Random) -> str:
    """An image file that is damaged, odd, or something else."""
    images = content["images"]
    entry = generator.choice(images) if isinstance(images, list) and images else None
    name = entry.get("file_name") if isinstance(entry, dict) else None
    file = folder / "1.jpg"
    if isinstance(name, str) and name.isascii() and (folder / name).is_file() and ".." not in name:
        file = folder / name
    pixels = None
    with suppress(cv2.error):  # an earlier fault may have made it too large
        pixels = cv2.imread(str(file))
    if pixels is None:
        pixels = np.zeros((40, 40, 3), np.uint8)
    kind = generator.choice(list(PICTURES))
    with_unlink(file, PICTURES[kind], pixels)
    return f"{kind} {file.name}"


def with_unlink(file: Path, make: Callable[[Path, np.ndarray, bytes], None], pixels) -> None:
    before = file.read_bytes() if file.is_file() else b""
    if file.is_dir():
        shutil.rmtree(file)
    elif os.path.lexists(file):
        file.unlink()
    make(file, pixels, before)


def encoded(extension: str, change=lambda pixels: pixels):
    def make(file: Path, pixels: np.ndarray, before: bytes) -> None:
        done, data = cv2.imencode(extension, change(pixels))
        assert done
        file.write_bytes(data.tobytes())

    return make


def pillow(mode: str, form: str, **settings):
    def make(file: Path, pixels: np.ndarray, before: bytes) -> None:
        Image.fromarray(pixels[..., ::-1]).convert(mode).save(file, form, **settings)

    return make


def turned(file: Path, pixels: np.ndarray, before: bytes) -> None:
    """EXIF says that the camera lay on its side."""
    image = Image.fromarray(pixels[..., ::-1])
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(file, "JPEG", exif=exif)


def animated(file: Path, pixels: np.ndarray, before: bytes) -> None:
    frames = [Image.fromarray(np.roll(pixels, i, 0)) for i in range(3)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])


def bomb(side: int):
    """A PNG whose header says more pixels than it has."""

    def make(file: Path, pixels: np.ndarray, before: bytes) -> None:
        def chunk(kind: bytes, data: bytes) -> bytes:
            checked = kind + data
            return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

        head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        data = chunk(b"IDAT", zlib.compress(bytes(10_000)))
        file.write_bytes(b"\x89PNG\r\n\x1a\n" + head + data + chunk(b"IEND", b""))

    return make


PICTURES: dict[str, Callable[[Path, np.ndarray, bytes], None]] = {
    "missing": lambda file, pixels, before: None,
    "empty": lambda file, pixels, before: file.write_bytes(b""),
    "text": lambda file, pixels, before: file.write_text("404 Not Found"),
    "cut off": lambda file, pixels, before: file.write_bytes(before[: len(before) * 2 // 3]),
    "head only": lambda file, pixels, before: file.write_bytes(before[:200]),
    "noise within": lambda file, pixels, before: file.write_bytes(
        before[:-300] + bytes(range(200)) + before[-100:]
    ),
    "more behind": lambda file, pixels, before: file.write_bytes(before + bytes(5000)),
    "folder": lambda file, pixels, before: file.mkdir(),
    "pipe": lambda file, pixels, before: os.mkfifo(file),
    "link to itself": lambda file, pixels, before: file.symlink_to(file.name),
    "link to a device": lambda file, pixels, before: file.symlink_to("/dev/zero"),
    "PNG": encoded(".png"),
    "PNG of 16 bits": encoded(".png", lambda pixels: pixels.astype(np.uint16) * 257),
    "grey": encoded(".png", lambda pixels: pixels[..., 0]),
    "transparent": encoded(".png", lambda pixels: cv2.cvtColor(pixels, cv2.COLOR_BGR2BGRA)),
    "one pixel": encoded(".png", lambda pixels: pixels[:1, :1]),
    "another size": encoded(".png", lambda pixels: pixels[:33, :35]),
    "BMP": encoded(".bmp"),
    "CMYK": pillow("CMYK", "JPEG"),
    "palette": pillow("P", "PNG"),
    "WebP": pillow("RGB", "WEBP"),
    "TIFF": pillow("RGB", "TIFF"),
    "turned": turned,
    "animated": animated,
    "bomb": bomb(100_000),
    "large and empty": bomb(5000),
}


def mutated(place: Path, generator: random.Random) -> list[str]:
    """Make a data set with up to three faults under ``place``; returns what they are."""
    content = sound(place, generator)
    faults = []
    form = None
    for _ in range(generator.choice([0, 1, 1, 1, 2, 2, 3])):
        chance = generator.random()
        if chance < 0.6:
            with_fault = copy.deepcopy(content)
            try:
                faults.append(generator.choice(CONTENT)(with_fault, generator))
            except (TypeError, KeyError, IndexError, AttributeError, ValueError):
                continue  # an earlier fault is in its way
            content = with_fault
        elif chance < 0.9:
            faults.append(picture_fault(content, place / "images", generator))
        else:
            form = generator.getrandbits(30)
    text = json.dumps(content)
    data = text.encode()
    if form is not None:
        name, data = file_fault(text, random.Random(form))
        faults.append(f"JSON: {name}")
    (place / "faulty.json").write_bytes(data)
    return faults
