"""The fields of COCO's annotation files, which are checked before anything relies on them.

========================  ===========================================  ==========================
field                     valid values                                 needed by
========================  ===========================================  ==========================
images.id                 a whole number of any size, unique           everything
images.file_name          text that can be a file name                 all that reads images
images.width, .height     whole numbers from 1 on, as OpenCV reads     training, masks, pictures
annotations.id            a whole number of any size, unique           everything
annotations.image_id      a whole number                               everything
annotations.category_id   a whole number                               everything
annotations.bbox          [x, y, width, height], finite numbers        everything
annotations.area          a finite number (training leaves out <= 0)   training, evaluation
annotations.iscrowd       0 or 1; 0 where it is missing                evaluation, pictures
annotations.segmentation  polygons, or run lengths that fill the       models with masks, ``segm``,
                          image; may be missing                        pictures
categories.id             a whole number of any size, unique           everything
categories.name           text, unique among the classes               everything
========================  ===========================================  ==========================

Other fields are ignored. Training, evaluation, browsing and analysis read files through
``annotations.py``, which refuses the first problem. ``tools/check_dataset.py`` lists all problems.
The list of annotations may be missing in a file of test images.
"""

import collections
import json
import os
import re
import reprlib
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from models_mm.errors import UserError

MAX_SIDE = 2**20  # pixels per side of an image that OpenCV reads; also the limit of coordinates
MAX_PIXELS = 2**30  # pixels of an image that OpenCV reads
MAX_LENGTH = 2**22  # pixels along a polygon; pycocotools allocates 80 bytes for each


class Problem(NamedTuple):
    """One finding of a check.

    Attributes:
        kind: what is wrong, in two or three words.
        where: the entry, as messages name it.
        detail: the field and the reason.
        entry: the list and the position in it, if the finding is about one entry.
    """

    kind: str
    where: str
    detail: str
    entry: tuple[str, int] | None = None


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


def shown(value) -> str:
    """A value of a file for a message: short, on one line, and printable on every terminal."""
    if isinstance(value, str) and value.isprintable():
        return value if len(value) <= 200 else f"{value[:100]}...{value[-20:]}"
    try:
        return _SHORT.repr(value).encode("ascii", "backslashreplace").decode()
    except ValueError:  # Python refuses to print the largest numbers
        return f"a {type(value).__name__} with a number of thousands of digits"


def _whole(value) -> str | None:
    return None if type(value) is int else "is not a whole number"


def _side(value) -> str | None:
    if type(value) is int and 1 <= value <= MAX_SIDE:
        return None
    return f"is not a whole number of pixels from 1 to {MAX_SIDE}"


def _text(value) -> str | None:
    if not isinstance(value, str) or not value:
        return "is not a text"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "has characters that no file and no terminal takes (lone surrogates)"
    return "has a zero byte" if "\0" in value else None


def _number(value, limit: int) -> bool:
    """Whether a value is a number from ``-limit`` to ``limit``; NaN is not."""
    return (type(value) is float or type(value) is int) and -limit <= value <= limit


def _box(value) -> str | None:
    if type(value) is list and len(value) == 4:
        x, y, width, height = value
        if (
            _number(x, MAX_SIDE)
            and _number(y, MAX_SIDE)
            and _number(width, MAX_SIDE)
            and _number(height, MAX_SIDE)
        ):
            return None
    return f"is not x, y, width, height: four numbers of at most {MAX_SIDE}"


def _area(value) -> str | None:
    return None if _number(value, MAX_SIDE**2) else f"is not a number of at most {MAX_SIDE**2}"


def _crowd(value) -> str | None:
    # True, False and 1.0 are accepted too: every reader understands them in the same way
    return None if isinstance(value, (int, float)) and value in (0, 1) else "is neither 0 nor 1"


class Field(NamedTuple):
    """A field of an entry.

    Attributes:
        name: the key in the file.
        fault: says what is wrong with a value; ``None`` if nothing is.
        required: the field must not be missing.
    """

    name: str
    fault: Callable[[object], str | None]
    required: bool = True


FIELDS = {
    "images": (
        Field("id", _whole),
        Field("file_name", _text),
        Field("width", _side),
        Field("height", _side),
    ),
    "annotations": (
        Field("id", _whole),
        Field("image_id", _whole),
        Field("category_id", _whole),
        Field("bbox", _box),
        Field("area", _area),
        Field("iscrowd", _crowd, required=False),
    ),
    "categories": (Field("id", _whole), Field("name", _text)),
}
MISSING = object()


def read(ann_file: str, testing: bool = False) -> dict:
    """Read an annotation file, which must have COCO's three lists.

    Args:
        ann_file: annotations in COCO's format.
        testing: the list of annotations may be missing, as in COCO's files of test images.

    Raises:
        UserError: the file is missing, is no regular file, is not JSON, or lacks one of the lists.
    """
    try:
        if not stat.S_ISREG(os.stat(ann_file).st_mode):  # reading a pipe could wait for ever
            raise UserError(f"{ann_file} is not a file")
        with open(ann_file, "rb") as file:
            content = json.loads(file.read())
    except OSError as error:
        raise UserError(f"{ann_file} cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise UserError(f"{ann_file} is nested too deep for an annotation file") from error
    except ValueError as error:  # not JSON, not text, or a number with thousands of digits
        raise UserError(f"{ann_file} is not JSON: {error}") from error
    for kind in FIELDS:
        if testing and kind == "annotations" and isinstance(content, dict) and kind not in content:
            continue
        if not isinstance(content, dict) or not isinstance(content.get(kind), list):
            raise UserError(f"{ann_file} is not in COCO's format: it has no list of {kind!r}")
    return content


def used_categories(content: dict, classes: tuple[str, ...] | None) -> frozenset:
    """The ids of the categories that are among the classes (default: all)."""
    categories = content["categories"]
    return frozenset(c["id"] for c in categories if classes is None or c["name"] in classes)


def field_problems(content: dict, classes: tuple[str, ...] | None = None) -> Iterator[Problem]:
    """All invalid fields except masks, and all ids that are not unique."""
    for kind, fields in FIELDS.items():
        for number, entry in enumerate(content.get(kind, ())):
            if type(entry) is not dict:
                detail = f"{shown(entry)} is not an object with fields"
                yield Problem(f"bad {kind}", f"{kind}[{number}]", detail, (kind, number))
                continue
            for name, fault, required in fields:
                value = entry.get(name, MISSING)
                if value is MISSING:
                    reason = f"{name}: missing" if required else None
                else:
                    reason = fault(value)
                    if reason is not None:
                        reason = f"{name}: {shown(value)} {reason}"
                if reason is not None:
                    yield Problem(f"bad {name}", place(kind, number, entry), reason, (kind, number))
    for number, image in enumerate(content["images"]):
        if type(image) is dict and not (_side(image.get("width")) or _side(image.get("height"))):
            if image["width"] * image["height"] > MAX_PIXELS:
                detail = f"width, height: more than {MAX_PIXELS} pixels"
                where = place("images", number, image)
                yield Problem("bad width", where, detail, ("images", number))
    yield from duplicates(content, classes)


def place(kind: str, number: int, entry: dict) -> str:
    """The name of an entry in messages: its list, its position there, and its id."""
    return f"{kind}[{number}] (id {shown(entry['id'])})" if "id" in entry else f"{kind}[{number}]"


def annotation_problem(number: int, annotation: dict, field: str, reason: str) -> Problem:
    """A problem of a field of an annotation."""
    where = place("annotations", number, annotation)
    return Problem(f"bad {field}", where, f"{field}: {reason}", ("annotations", number))


def duplicates(content: dict, classes: tuple[str, ...] | None) -> Iterator[Problem]:
    """Ids that occur more than once in a list, and such names among the used categories."""
    for kind in FIELDS:
        entries = [entry for entry in content.get(kind, ()) if type(entry) is dict]
        counts = collections.Counter(e["id"] for e in entries if type(e.get("id")) is int)
        if len(counts) == len(entries):
            continue
        for key, count in counts.items():
            if count > 1:
                yield Problem("duplicated id", f"{kind} {shown(key)}", f"id: {count} times")
    names = [c.get("name") for c in content["categories"] if type(c) is dict]
    counts = collections.Counter(name for name in names if isinstance(name, str))
    for name, count in counts.items():
        if count > 1 and (classes is None or name in classes):
            where = f"categories named {shown(name)}"
            yield Problem("duplicated category", where, f"name: {count} times")


def mask_fault(mask, image: dict, use: str = "pixels") -> str | None:
    """What is wrong with a mask; ``None`` if nothing is. pycocotools' C code checks nothing.

    Args:
        mask: the ``segmentation`` of an annotation.
        image: the entry of its image, with a valid width and height.
        use: ``"pixels"``, or ``"polygons"`` if run lengths cannot be used.
    """
    if mask is None:
        return "there is none"
    if isinstance(mask, list):
        if not mask:
            return "no polygon"
        return next(filter(None, map(_polygon_fault, mask)), None)
    if not isinstance(mask, dict):
        return f"{shown(mask)} is neither polygons nor run lengths"
    if use == "polygons":
        return "run lengths, where the config (poly2mask=False) needs polygons"
    height, width = image["height"], image["width"]
    size, counts = mask.get("size"), mask.get("counts")
    if not isinstance(size, list) or [type(side) for side in size] != [int, int]:
        return f"size {shown(size)} is not the height and the width"
    if size != [height, width]:
        return f"its size is {shown(size[1])}x{shown(size[0])} in an image of {width}x{height}"
    if isinstance(counts, str):
        counts = lengths_from_text(counts)
    elif not isinstance(counts, list) or not set(map(type, counts)) <= {int}:
        return f"counts {shown(counts)} are no run lengths"
    if counts is None or len(counts) == 0 or min(counts) < 0 or sum(counts) != height * width:
        return "its run lengths do not fill the image"
    return None


def _polygon_fault(polygon) -> str | None:
    try:
        # these loops run in C; only the sum notices NaN
        low, high, total = min(polygon), max(polygon), sum(polygon)
        sound = type(polygon) is list and -MAX_SIDE <= low and high <= MAX_SIDE and total == total
    except (TypeError, ValueError):
        sound = polygon == []
    if not sound:
        return f"a polygon is not a list of numbers of at most {MAX_SIDE}"
    number = len(polygon)
    if number < 6 or number % 2:  # pycocotools would read four numbers as a box
        return f"{number} numbers are no polygon"
    if (high - low) * number > MAX_LENGTH:
        steps = np.abs(np.diff(np.reshape(polygon, (-1, 2)), axis=0))
        if steps.max(axis=1).sum() > MAX_LENGTH:
            return f"a polygon is longer than {MAX_LENGTH} pixels"
    return None


_COUNTS = re.compile(r"(?:[P-o]{0,5}[0-O])+")  # one number: up to 6 characters, the last below P


def lengths_from_text(counts: str) -> list[int] | None:
    """The run lengths in COCO's compressed text; ``None`` if it is no such text.

    A character holds 5 bits of a number, the low bits first, and a sixth bit that says whether more
    follow. From the fourth number on, the text has the difference to the number two places before.
    """
    if not _COUNTS.fullmatch(counts):
        return None
    codes = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(codes < 32)
    first = np.concatenate([[0], last[:-1] + 1])
    digit = np.arange(len(codes)) - np.repeat(first, last - first + 1)
    values = np.add.reduceat((codes & 31) << (5 * digit), first)
    values -= ((codes[last] & 16) > 0).astype(np.int64) << (5 * (digit[last] + 1))  # the sign
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values.tolist()


def text_from_lengths(lengths: np.ndarray) -> str:
    """COCO's compressed text of run lengths, the inverse of :func:`lengths_from_text`."""
    values = lengths.astype(np.int64)
    values[3:] -= lengths[1:-2]
    shifts = 5 * np.arange(7)  # 35 bits, of which a length needs 32 at most
    digits = values[:, None] >> shifts & 31
    rest = values[:, None] >> (shifts + 5)
    more = rest != -(digits >> 4)  # a number ends when all that is left is its sign
    written = np.cumprod(np.column_stack([np.ones(len(more), int), more[:, :-1]]), 1) > 0
    return (digits + 32 * more + 48)[written].astype(np.uint8).tobytes().decode()
