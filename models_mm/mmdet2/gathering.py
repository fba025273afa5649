"""The results of all ranks are brought to rank 0.

They are sent as JSON and arrays. Nothing is pickled and no file is written, so nobody can leave a
file for rank 0 to load.
"""

import json

import numpy as np
from mmcv.runner import get_dist_info

from models_mm.distributed import ranks, watchdog


def gather_results(results: list, size: int) -> list | None:
    """Bring the results of all ranks to rank 0.

    Args:
        results: of this rank: of the images ``rank``, ``rank + world size``, and so on.
        size: number of images. The sampler repeats some at the end, so that all ranks have as many.

    Returns:
        The results of all images in their order on rank 0, ``None`` on the other ranks.
    """
    rank, world = get_dist_info()
    if world == 1:
        return results
    watchdog.barrier("the results of all images")
    with watchdog.paused("collecting results"):
        if rank != 0:
            ranks.send_to_rank_0(pack(results))
            return None
        parts = [results, *(unpack(ranks.receive_from(other)) for other in range(1, world))]
    return [result for row in zip(*parts, strict=True) for result in row][:size]


def pack(value) -> bytes:
    """Pack lists, tuples, dicts, texts, numbers and arrays into bytes: JSON and then the arrays."""
    arrays: list[np.ndarray] = []
    text = json.dumps(_described(value, arrays)).encode()
    blocks = [array.tobytes() for array in arrays]
    return b"".join([len(text).to_bytes(8, "big"), text, *blocks])


def unpack(data: bytes):
    """Restore the value that :func:`pack` was given."""
    end = 8 + int.from_bytes(data[:8], "big")
    return _restored(json.loads(data[8:end]), data, [end])


def _described(value, arrays: list[np.ndarray]):
    """The value for JSON. Types that JSON lacks become a dict with their name as its only key."""
    if isinstance(value, dict):
        if value.keys() == {"size", "counts"}:  # masks are many: they stay as they are
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
    """The value that :func:`_described` was given; ``place[0]`` is where the next array begins."""
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
