"""Results of a detector: masks as run lengths, and those of all ranks brought to rank 0.

Nothing is pickled on the way and no file is written, so nobody can leave one for rank 0 to load.
"""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import cv2
import hotcoco
import numpy as np
from mmcv.runner import get_dist_info

from models_mm.checkpoints.disk import replacing
from models_mm.checkpoints.pickles import read_pickle
from models_mm.datasets.results import check_results
from models_mm.engine import ranks, watchdog
from models_mm.errors import UserError, printable


def encoded(result):
    """An image's result with its masks (H, W) as run lengths, in whatever structure it has."""
    if isinstance(result, tuple):  # boxes and masks
        boxes, masks = result
        return boxes, encode_masks(masks)
    if isinstance(result, dict) and "ins_results" in result:  # panoptic segmentation
        return {**result, "ins_results": encoded(result["ins_results"])}
    return result


def encode_masks(masks):
    """Masks (H, W) of each class as run lengths in COCO's form, ``counts`` being text."""
    if isinstance(masks, tuple):  # Mask Scoring R-CNN: masks and scores of their own
        return encode_masks(masks[0]), masks[1]
    return [[run_lengths(mask) for mask in of_class] for of_class in masks]


def run_lengths(mask: np.ndarray) -> dict:
    """A mask's run lengths, which go down its columns; pycocotools' to the letter."""
    # OpenCV turns the rows into columns in a tenth of the time that NumPy takes
    columns = cv2.transpose(np.ascontiguousarray(mask).view(np.uint8)).T
    rle = hotcoco.mask.encode(columns)
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def load_results(file: str, dataset) -> list:
    """What ``tools/test.py --out`` wrote, read without running what the file may bring along.

    Raises:
        UserError: no such file, no results in it, those of another data set, or proposals.
    """
    if not Path(file).exists():
        raise UserError(f"results not found: {file} (tools/test.py --out FILE.pkl writes them)")
    try:
        results = read_pickle(Path(file))
    except Exception as error:  # a damaged pickle can raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"{file} is not what tools/test.py --out writes ({printable(reason)})"
        ) from error
    try:
        check_results(results, len(dataset), len(dataset.CLASSES))
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    if isinstance(results[0], np.ndarray):
        raise UserError(f"{file} has proposals, which are of no class: there is nothing to draw")
    infos = getattr(dataset, "data_infos", None) or [{}] * len(results)
    for number, (result, info) in enumerate(zip(results, infos, strict=True)):
        try:
            for mask in masks_of(result):
                check_mask(mask, info.get("height"), info.get("width"))
        except ValueError as error:
            raise UserError(f"{file}: the result of image {number} {error}") from error
    return results


def write_results(results: list, file: str) -> None:
    """Write all images' results, whole or not at all, for :func:`load_results`."""
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as opened:
        pickle.dump(results, opened, protocol=4)


def masks_of(result) -> Iterator:
    """All masks of one image's result, if it has any."""
    if isinstance(result, tuple):
        masks = result[1][0] if isinstance(result[1], tuple) else result[1]
        yield from (mask for of_class in masks for mask in of_class)


def check_mask(mask, height: int | None, width: int | None) -> None:
    """Look at a mask before it is drawn: an array (H, W), or run lengths, which can claim any size.

    Args:
        mask: what is in the place of one.
        height: of the image, if known.
        width: likewise.

    Raises:
        ValueError: it is none, or not of the image's size.
    """
    lengths = isinstance(mask, dict) and isinstance(mask.get("counts"), (str, bytes))
    size = mask.get("size") if lengths else getattr(mask, "shape", None)
    if not isinstance(size, (list, tuple)) or {int} != {type(n) for n in size} or len(size) != 2:
        raise ValueError("has a mask without size")
    if any(
        side < 0 or side != (known or side)
        for side, known in zip(size, (height, width), strict=True)
    ):
        raise ValueError(f"has a mask of the size {tuple(size)} instead of {(height, width)}")
    if max(size) >= 1 << 16:
        raise ValueError(f"has a mask of the size {tuple(size)}")
    if lengths:
        counts = mask["counts"]
        counts = counts.encode() if isinstance(counts, str) else counts
        hotcoco.mask.area({"size": list(size), "counts": counts})  # which reads all of them


def gather_results(results: list, size: int) -> list | None:
    """All images' results in their order on rank 0, ``None`` on the others.

    Args:
        results: this rank's: of the images rank, rank + world size, ...
        size: number of images; the last round may have been filled up with repeated ones.
    """
    rank, world = get_dist_info()
    if world == 1:
        return results
    watchdog.meet("the results of all images")
    with watchdog.paused("collecting results"):
        if rank != 0:
            ranks.send_to_first(pack(results))
            return None
        parts = [results, *(unpack(ranks.receive(other)) for other in range(1, world))]
    return [result for row in zip(*parts, strict=True) for result in row][:size]


def pack(value) -> bytes:
    """Lists, tuples, dicts, text, numbers and arrays as bytes: JSON, and the arrays behind it."""
    arrays: list[np.ndarray] = []
    text = json.dumps(_described(value, arrays)).encode()
    blocks = [array.tobytes() for array in arrays]
    return b"".join([len(text).to_bytes(8, "big"), text, *blocks])


def unpack(data: bytes):
    """What :func:`pack` has packed."""
    end = 8 + int.from_bytes(data[:8], "big")
    return _restored(json.loads(data[8:end]), data, [end])


def _described(value, arrays: list[np.ndarray]):
    """The value for JSON; what JSON does not know, and dicts, as a dict of one."""
    if isinstance(value, dict):
        if value.keys() == {"size", "counts"}:  # a mask, of which there are many
            return value
        return {"dict": [[key, _described(v, arrays)] for key, v in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_described(v, arrays) for v in value]}
    if isinstance(value, list):
        return [_described(v, arrays) for v in value]
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {"array": [value.dtype.str, value.shape]}
    return value


def _restored(value, data: bytes, place: list[int]):
    """The value that :func:`_described` was given; ``place`` is where the next array begins."""
    if isinstance(value, list):
        return [_restored(v, data, place) for v in value]
    if not isinstance(value, dict) or "counts" in value:
        return value
    (kind, content), *_ = value.items()
    if kind == "dict":
        return {key: _restored(v, data, place) for key, v in content}
    if kind == "tuple":
        return tuple(_restored(v, data, place) for v in content)
    kind, shape = content
    number = int(np.prod(shape))
    array = np.frombuffer(data, np.dtype(kind), number, place[0]).reshape(shape).copy()
    place[0] += array.nbytes
    return array
