"""The files that mmdet's data sets read, through its wrappers of data sets."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from models_mm.data.images import regular_file
from models_mm.mmdet2.pipelines import LoadImageFromFile


def parts_of(dataset) -> list:
    """The data sets inside a wrapper; an empty list for a plain data set."""
    inner = getattr(dataset, "datasets", None) or [getattr(dataset, "dataset", None)]
    return [part for part in inner if part is not None]


def files_of(dataset) -> list[str]:
    """All files that a data set reads: its images and its annotations."""
    parts = parts_of(dataset)
    if parts:
        return [file for part in parts for file in files_of(part)]
    folder = getattr(dataset, "img_prefix", None) or ""
    infos = getattr(dataset, "data_infos", None) or []
    names = [info["filename"] for info in infos if isinstance(info.get("filename"), str)]
    annotations = getattr(dataset, "ann_file", None)
    found = [os.path.join(folder, name) for name in names]
    return [*found, annotations] if isinstance(annotations, str) else found


def check_image_files(dataset, threads: int = 16) -> None:
    """Check before an evaluation that all of its image files exist; they are not decoded yet.

    Args:
        dataset: mmdet's data set or a wrapper. Images that are not read from a disk are not
            checked.
        threads: files that are checked at the same time.

    Raises:
        UserError: an image does not exist, is empty, or is no file. The first one is named.
    """
    paths = list(images_on_disk(dataset))
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(regular_file, paths, chunksize=256):
            pass


def images_on_disk(dataset) -> Iterator[str]:
    """The paths of the images that a data set reads from a disk."""
    for part in parts_of(dataset):
        yield from images_on_disk(part)
    steps = getattr(getattr(dataset, "pipeline", None), "transforms", ())
    loads = [step for step in steps if isinstance(step, LoadImageFromFile)]
    if loads and loads[0].file_client_args["backend"] == "disk":
        for info in getattr(dataset, "data_infos", None) or ():
            yield os.path.join(getattr(dataset, "img_prefix", None) or "", info["filename"])
