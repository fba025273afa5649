"""Predicting for images, folders and videos, and writing what is found."""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from models_mm.data.annotations import load
from models_mm.data.images import Decoder
from models_mm.data.inputs import batches, find_inputs, frame_count, frames, read_images
from models_mm.deployment.description import is_exported
from models_mm.detector import Detector
from models_mm.errors import UserError, did_you_mean
from models_mm.host_imports import needed_by
from models_mm.messages import say
from models_mm.outputs import Outputs
from models_mm.visualization.detections import Detections
from models_mm.visualization.prediction_files import Ids, Source, writers


def predict(args: argparse.Namespace) -> None:
    """Predict as the options of :mod:`models_mm.cli.predict` say.

    Raises:
        UserError: there is nothing to read, or an option does not fit the detector. Images that
            cannot be read are named in an error after all other images are done.
    """
    files, videos = find_inputs(args.inputs)
    total = len(files) + sum(frame_count(video) for video in videos)
    detector, model = chosen(args)
    wanted = labels_of(args.classes, detector.classes)
    ids = ids_of(args.annotations, detector.classes, files, videos) if args.annotations else None
    inputs = [*files, *videos, *model, *filter(None, [args.annotations])]
    inputs.append(Path(model[-1]).parent / "results.json")  # of the training
    places = Outputs(args.out, inputs)
    say(f"{', '.join(model)}, on {detector.device}")

    unread: list[str] = []
    images = objects = 0
    start = time.perf_counter()
    with ExitStack() as stack:
        outputs = [
            stack.enter_context(closing(writer))
            for writer in writers(args.formats, places, detector.classes, ids)
        ]
        bar = stack.enter_context(progress(total))
        for group in sources(files, videos, unread, detector.decoder):
            for source, found in detect(detector, group, args, unread):
                found = found[np.isin(found.labels, wanted)]
                for output in outputs:
                    output.add(source, found)
                images, objects = images + 1, objects + len(found)
                bar.update()
    rate = images / (time.perf_counter() - start)
    print(f"{objects} objects in {images} images ({rate:.3g} images/s): {args.out}")
    if unread:
        raise UserError("left out:\n  " + "\n  ".join(unread))


def chosen(args: argparse.Namespace) -> tuple[Detector, list[str]]:
    """The detector that the options name, and its files.

    Raises:
        UserError: as :class:`models_mm.Detector` and :func:`find_trained`.
    """
    if is_exported(args.model or ""):
        detector = Detector(args.model, score_thr=args.score_thr, providers=args.providers)
        return detector, [args.model]
    config, checkpoint = args.config, args.checkpoint
    if not (config and checkpoint):
        with needed_by("models_mm predict"):
            from models_mm.mmdet2.work_dirs import find_trained  # exported files do without it

        found = find_trained(args.model, config)
        config, checkpoint = config or str(found[0]), checkpoint or str(found[1])
    detector = Detector(config, checkpoint, args.device, args.score_thr, args.cfg_options)
    return detector, [config, checkpoint]


def labels_of(names: list[str] | None, classes: tuple[str, ...]) -> list[int]:
    """The labels of some classes; of all for ``None``.

    Raises:
        UserError: the detector has no such class.
    """
    for name in names or ():
        if name not in classes:
            hint = did_you_mean(name, classes)
            raise UserError(f"--classes: the detector has no class {name!r}{hint}")
    return [label for label, name in enumerate(classes) if names is None or name in names]


def ids_of(file: str, classes: tuple[str, ...], files: list[Path], videos: list[Path]) -> Ids:
    """The ids of images and categories in an annotation file.

    Raises:
        UserError: the file cannot be read, or lacks a class or an image.
    """
    ids = Ids.of(load(file, testing=True), classes, file)
    for path in [*files, *videos]:
        ids.image(str(path))
    return ids


def progress(total: int):
    """A progress bar for images; fewer lines where it is written to a file."""
    try:
        from tqdm import tqdm  # exported detectors need not have it
    except ImportError:
        return nullcontext(SimpleNamespace(update=lambda: None))
    often = 0.2 if sys.stderr.isatty() else 10.0  # seconds
    return tqdm(total=total, unit="image", file=sys.stderr, mininterval=often, dynamic_ncols=True)


def sources(
    files: list[Path], videos: list[Path], unread: list[str], decoder: Decoder
) -> Iterator[Iterable[tuple[Source, np.ndarray]]]:
    """The images, and the frames of each video, with their BGR pixels (H, W, 3).

    Args:
        files: the images.
        videos: the videos.
        unread: gets a message for each image that cannot be read.
        decoder: of the images.
    """
    bases, clips = base_names(files), base_names(videos)
    pairs = read_images(files, unread, decoder)
    yield ((Source(str(file), bases[file]), pixels) for file, pixels in pairs)
    for video in videos:
        yield frames_of(video, clips[video])


def frames_of(video: Path, base: str) -> Iterator[tuple[Source, np.ndarray]]:
    """The frames of a video; says how many there are if the file is cut off."""
    number = 0
    for name, pixels in frames(video):
        yield Source(name, base, number, video), pixels
        number += 1
    declared = frame_count(video)
    if number < 0.99 * declared - 1:  # the number that a file declares may be an estimate
        say(f"\n{video}: only {number} of {declared} frames can be read")


def base_names(files: list[Path]) -> dict[Path, str]:
    """The beginning of the output's name for each file; the folder comes first if the name is not
    unique."""
    numbers = Counter(file.stem for file in set(files))
    return {
        file: file.stem if numbers[file.stem] == 1 else f"{file.resolve().parent.name}_{file.name}"
        for file in files
    }


def detect(
    detector: Detector,
    group: Iterable[tuple[Source, np.ndarray]],
    args: argparse.Namespace,
    unread: list[str],
) -> Iterator[tuple[Source, Detections]]:
    """The objects of each image of a group.

    Args:
        detector: of the objects.
        group: the images.
        args: the options of the command line.
        unread: gets a message for each image that the detector does not take.
    """
    for batch in batches(group, 1 if args.tile else args.batch):
        yield from detect_batch(detector, batch, args, unread)


def detect_batch(
    detector: Detector, batch: list, args: argparse.Namespace, unread: list[str]
) -> Iterator[tuple[Source, Detections]]:
    """The objects of some images; arguments as of :func:`detect`."""
    names, pixels = zip(*batch, strict=True)
    try:
        if args.tile:
            found = [detector.tiled(pixels[0], args.tile, args.overlap, args.batch)]
        else:
            found = detector.batch(list(pixels))
    except UserError as error:
        if len(batch) > 1:  # one of them is to blame
            for one in batch:
                yield from detect_batch(detector, [one], args, unread)
            return
        if names[0].video is not None:  # its other frames are of this size too
            raise UserError(f"{names[0].name}: {error}") from error
        unread.append(f"{names[0].name}: {error}")
        return
    yield from zip(names, found, strict=True)
