"""Predicting for images, folders and videos: pictures, and one file in COCO's format."""

import argparse
import itertools
import json
import sys
from contextlib import nullcontext
from pathlib import Path

from models_mm.data.inputs import batches, find_inputs, frame_count, frames, read_images
from models_mm.detector import Detector
from models_mm.errors import UserError
from models_mm.outputs import Outputs
from models_mm.visualization.detections import CocoPredictions
from models_mm.visualization.videos import video_writer


def predict(args: argparse.Namespace) -> None:
    """Predict as the options of :mod:`models_mm.cli.predict` say.

    Raises:
        UserError: there is nothing to read. Images that cannot be read are named in an error after
            all other images are done.
    """
    files, videos = find_inputs(args.inputs)
    if args.model:
        detector = Detector(args.model, score_thr=args.score_thr, providers=args.providers)
    else:
        detector = Detector(
            args.config, args.checkpoint, args.device, args.score_thr, args.cfg_options
        )
    model = filter(None, [args.model, args.config, args.checkpoint])
    places = Outputs(args.out, [*files, *videos, *model])
    file = places.path("predictions.json")
    predictions = CocoPredictions(detector.classes)
    unread: list[str] = []
    total, done = len(files) + sum(frame_count(video) for video in videos), itertools.count(1)

    def detect(images):
        for batch in batches(images, args.batch):
            names, pixels = zip(*batch, strict=True)
            for name, found in zip(names, detector.batch(list(pixels)), strict=True):
                predictions.add(str(name), found)
                yield name, found
                print(f"\r{next(done)} of {total}", end="", file=sys.stderr, flush=True)

    for name, found in detect(read_images(files, unread, detector.decoder)):
        if not args.no_pictures:
            found.draw(places.path(picture_name(name, files)))
    for video in videos:
        clip = places.path(f"{video.stem}.mp4")
        with nullcontext() if args.no_pictures else video_writer(clip, video) as write:
            for _, found in detect(frames(video)):
                if write:
                    write(found.draw())
    file.write_text(json.dumps(predictions.content))
    images, objects = (len(predictions.content[key]) for key in ("images", "annotations"))
    print(f"\n{objects} objects in {images} images: {file}")
    if unread:
        raise UserError("left out:\n  " + "\n  ".join(unread))


def picture_name(file: Path, files: list[Path]) -> str:
    """The name of the picture of an image; the folder comes first if the name is not unique."""
    same = [other for other in files if other.stem == file.stem]
    if len(same) == 1:
        return f"{file.stem}.jpg"
    return f"{file.resolve().parent.name}_{file.name}.jpg"
