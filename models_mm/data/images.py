"""Image files: read without surprises, and named when they cannot be used."""

import io
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mmcv
import numpy as np
from mmdet.datasets import PIPELINES
from mmdet.datasets.pipelines import LoadImageFromFile as MMDetLoadImageFromFile
from PIL import Image

from models_mm.data.fields import shown
from models_mm.errors import UserError

ENDS = ((b"\xff\xd8", b"\xff\xd9"), (b"\x89PNG", b"IEND"))  # how a JPEG and a PNG begin and end


def read_image(path: str | Path) -> np.ndarray:
    """An image file upright, BGR (H, W, 3).

    Raises:
        UserError: as :func:`read_file` and :func:`decode`.
    """
    return decode(read_file(path), str(path))


def read_file(path: str | Path) -> bytes:
    """The bytes of a regular file.

    Raises:
        UserError: there is none, it cannot be read, or it is a folder, pipe or device.
    """
    try:
        regular_file(path)
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"image {shown(str(path))} cannot be read: {error.strerror}") from error


def regular_file(path: str | Path) -> None:
    """Refuse what is no file before it is opened: to open a pipe waits without end.

    Raises:
        UserError: there is no file, or something else.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError as error:
        raise UserError(f"image not found: {shown(str(path))}") from error
    except (OSError, ValueError) as error:  # the latter: a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"image {shown(str(path))} cannot be read: {reason}") from error
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"image {shown(str(path))} cannot be read: not a file")
    if found.st_size == 0:
        raise UserError(f"image {shown(str(path))} is empty: 0 bytes")


def decode(content: bytes, path: str, flag: str = "color", channel_order: str = "bgr"):
    """An image's pixels (H, W, 3), or (H, W) and (H, W, 4) as ``flag`` says.

    Args:
        content: of the file.
        path: how messages call it.
        flag: of mmcv: ``color``, ``unchanged``, ...
        channel_order: ``bgr`` or ``rgb``.

    Raises:
        UserError: the content is no image, one that is cut off, or larger than OpenCV takes.
    """
    path = shown(path)
    for start, end in ENDS:
        # a little may follow the end; data of an image hold no such mark
        if content.startswith(start) and end not in content[-1024:] and not _whole(content):
            raise UserError(f"image {path} is damaged: it is cut off ({len(content):,} bytes)")
    try:
        pixels = mmcv.imfrombytes(content, flag=flag, channel_order=channel_order)
    except Exception as error:  # whatever the library makes of it
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"image {path} cannot be decoded: {reason}") from error
    if pixels is None:
        raise UserError(f"{path} is no image, or a damaged one ({len(content):,} bytes)")
    return pixels


def _whole(content: bytes) -> bool:
    """Whether an image with much behind its end (a phone's short film) is whole."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except Exception:  # whatever the library makes of it
        return False
    return True


@PIPELINES.register_module(force=True)
class LoadImageFromFile(MMDetLoadImageFromFile):
    """mmdet's ``LoadImageFromFile``, which names a file that cannot be used.

    So is one whose size is not that of its annotations: boxes and masks would lie elsewhere.
    """

    def __call__(self, results: dict) -> dict:
        """Load the image of ``img_info`` under ``img_prefix``; the keys are mmdet's.

        Raises:
            UserError: the image cannot be used.
        """
        info, prefix = results["img_info"], results["img_prefix"]
        name = info["filename"]
        path = name if prefix is None else os.path.join(prefix, name)
        if self.file_client_args["backend"] == "disk":
            content = read_file(path)
        else:
            self.file_client = self.file_client or mmcv.FileClient(**self.file_client_args)
            content = self.file_client.get(path)
        image = decode(content, path, self.color_type, self.channel_order)
        check_size(path, image, info)
        if self.to_float32:
            image = image.astype(np.float32)
        shape = image.shape
        loaded = dict(filename=path, ori_filename=name, img=image, img_shape=shape, ori_shape=shape)
        return results | loaded | {"img_fields": ["img"]}


def check_size(path: str, image: np.ndarray, info: dict) -> None:
    """Compare an image (H, W, ...) with its entry, where that has a size.

    Raises:
        UserError: they differ.
    """
    said = (info.get("width"), info.get("height"))
    size = image.shape[1::-1]
    if all(said) and said != size:
        raise UserError(
            f"image {shown(path)} has {size[0]}x{size[1]} pixels (upright), its annotation file "
            f"says {said[0]}x{said[1]}"
        )


def check_image_files(dataset, threads: int = 16) -> None:
    """Find files that an evaluation lacks before it begins; whether they decode shows later.

    Args:
        dataset: mmdet's, or a wrapper; those whose images are not on a disk pass.
        threads: files looked at at a time.

    Raises:
        UserError: an image does not exist, is empty or no file; names the first of them.
    """
    paths = list(image_files(dataset))
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(regular_file, paths, chunksize=256):
            pass


def image_files(dataset) -> Iterator[str]:
    """The images of a data set on a disk."""
    for part in getattr(dataset, "datasets", None) or [getattr(dataset, "dataset", None)]:
        if part is not None:
            yield from image_files(part)
    steps = getattr(getattr(dataset, "pipeline", None), "transforms", ())
    loads = [step for step in steps if isinstance(step, LoadImageFromFile)]
    if loads and loads[0].file_client_args["backend"] == "disk":
        for info in getattr(dataset, "data_infos", None) or ():
            yield os.path.join(getattr(dataset, "img_prefix", None) or "", info["filename"])
