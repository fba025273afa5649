"""Draw a small instance segmentation data set in the exact layout of COCO 2017.

It is for a whole training run - loading, learning, evaluation, visualisation - in minutes and
without a download. The numbers that a detector reaches on it show that everything works; they say
nothing about photographs.

    OUT/annotations/instances_{train,val}2017.json
    OUT/train2017/000000000001.jpg ...
    OUT/val2017/000000500001.jpg ...

What COCO has, this has: images of both orientations, images without any object, objects that hide
one another, crowds, and category ids with gaps. The same arguments write the same bytes.
"""

import argparse
import json
import re
import shutil
import tempfile
from pathlib import Path

from models_mm.cli.command import Parser
from models_mm.errors import UserError

VERSION = 3  # a higher number when the same arguments draw something else: old folders are redrawn
SPLITS = ("train", "val")
MAX_IMAGES = 100_000
MIN_SIDE, MAX_SIDE = 96, 4096


def whole_number(low: int, high: int):
    """A whole number between two, both included, as the ``type`` of an option."""

    def parse(text):
        if not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {low} to {high}")
        return int(text)

    return parse


def image_size(text: str) -> list[int]:
    """WIDTHxHEIGHT as the ``type`` of an option."""
    match = re.fullmatch(r"(\d+)[xX](\d+)", text)
    size = [int(side) for side in match.groups()] if match else [0]
    if not MIN_SIDE <= min(size) <= max(size) <= MAX_SIDE:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no WIDTHxHEIGHT such as 256x192, with sides from {MIN_SIDE} to {MAX_SIDE}"
        )
    return size


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__)
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


def make_split(folder: Path, split: str, parameters: dict) -> None:
    """Write the images and the annotation file of one split into a folder."""
    from models_mm.data.demo import CATEGORIES, make_image

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


def annotation_file(folder: Path, split: str) -> Path:
    """The path of a split's annotations."""
    return folder / "annotations" / f"instances_{split}2017.json"


def read_split(out: Path, split: str) -> dict | None:
    """The content of an annotation file, or None if this command has not written it."""
    try:
        content = json.loads(annotation_file(out, split).read_text(encoding="utf-8"))
        return content if content["info"]["parameters"]["tool"] == "make_demo_coco" else None
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None


def holds(out: Path, parameters: dict) -> bool:
    """Whether a folder has exactly this data set, with all its images."""
    for split in SPLITS:
        content = read_split(out, split)
        names = [image["file_name"] for image in content["images"]]
        if content["info"]["parameters"] != parameters:
            return False
        if not all((out / f"{split}2017" / name).is_file() for name in names):
            return False
    return True


def make_dataset(out: Path, parameters: dict) -> None:
    """Draw beside the folder and move the result into it: nothing incomplete is ever there."""
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


def already_there(out: Path, parameters: dict, overwrite: bool) -> bool:
    """Whether a folder has this data set already.

    Raises:
        UserError: it has something else, which is left alone.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; a folder is needed.")
    if not out.exists() or not any(out.iterdir()):
        return False
    if not all(read_split(out, split) for split in SPLITS):
        raise UserError(
            f"{out} is not empty and was not made by this tool: it is left alone. "
            "Choose another folder."
        )
    if overwrite:
        return False
    if not holds(out, parameters):
        raise UserError(
            f"{out} holds another data set of this tool, or an incomplete one. "
            "Choose another folder, or draw over it with --overwrite."
        )
    return True


def main(argv: list[str] | None = None) -> None:
    """Draw as the command line says.

    Raises:
        UserError: the folder has something else, or cannot be written.
    """
    args = parse_args(argv)
    parameters = {"tool": "make_demo_coco", "version": VERSION}
    parameters |= {key: getattr(args, key) for key in ("train", "val", "size", "seed")}
    try:
        if already_there(args.out, parameters, args.overwrite):
            print(f"{args.out} already holds this data set; nothing to do.")
            return
        make_dataset(args.out, parameters)
    except OSError as error:
        raise UserError(f"{args.out} cannot be written: {error}") from error
    for split in SPLITS:
        content = read_split(args.out, split)
        crowds = sum(annotation["iscrowd"] for annotation in content["annotations"])
        images, objects = len(content["images"]), len(content["annotations"]) - crowds
        print(f"{args.out}/{split}2017: {images} images, {objects} objects, {crowds} crowds")
