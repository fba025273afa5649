"""Read annotations in COCO's format (https://cocodataset.org/#format-data).

``models_mm.data.fields`` describes the fields. A box is x, y, width, height in pixels; its
coordinates are kept as they are.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from models_mm.data.check import content_of, without
from models_mm.data.fields import (
    Problem,
    annotation_problem,
    field_problems,
    mask_fault,
    place,
    read,
    shown,
)
from models_mm.data.formats.labels import (
    PART_FOLDERS,
    PARTS,
    DataSet,
    Fault,
    LabelledImage,
    Part,
    class_name,
    labelled_object,
    leads_outside,
    named,
    similar_names,
)
from models_mm.errors import UserError

TELLING = re.compile("train|val|test|coco|annotation|instances|labels", re.IGNORECASE)
ROBOFLOW = "_annotations.coco.json"  # in the folder of its images


def read_coco(source: Path, files: dict[str, Path], folders: dict[str, Path]) -> DataSet:
    """Read one annotation file per part.

    Args:
        source: what messages call the data set.
        files: the annotation file of each part.
        folders: the image folders of the parts, as far as they are given.

    Raises:
        UserError: a file is not in COCO's format, or its images are not found.
    """
    faults: list[Fault] = []
    contents = {part: sound_content(file, faults) for part, file in files.items()}
    classes, notes = used_classes(contents)
    parts = {}
    for part, file in files.items():
        images = contents[part]["images"]
        folder = folders.get(part) or image_folder(file, part, images)
        faults += missing_images(file, folder, images)
        parts[part] = Part(folder, file, labelled_images(contents[part]))
    return DataSet(source, "COCO", classes, parts, notes + similar_names(classes), faults)


def sound_content(file: Path, faults: list[Fault]) -> dict[str, list[dict]]:
    """The entries of a file without faults; the faults are appended to the list.

    An ``area`` that is missing becomes ``None``: many tools leave it out.

    Raises:
        UserError: the file is not in COCO's format.
    """
    content = read(str(file))
    entries = [entry for entry in content["annotations"] if isinstance(entry, dict)]
    lacking = [entry for entry in entries if "area" not in entry]
    for entry in lacking:
        entry["area"] = 0
    problems = list(field_problems(content))
    for find in (name_problems, object_problems):
        problems += find(without(content, problems))
    for entry in lacking:
        entry["area"] = None
    faults += [Fault(f"{named(file)}: {problem.where}", problem.detail) for problem in problems]
    return content_of(without(content, problems))


def name_problems(sound: dict[str, dict[int, dict]]) -> Iterator[Problem]:
    """File names twice or out of the image folder, and names that no class can have."""
    names: set[str] = set()
    for number, image in sound["images"].items():
        name = image["file_name"]
        outside = leads_outside(name)
        if outside or name in names:
            reason = "leads out of the image folder" if outside else "is there twice"
            where, detail = place("images", number, image), f"file_name: {shown(name)} {reason}"
            yield Problem("bad file_name", where, detail, ("images", number))
        names.add(name)
    for number, category in sound["categories"].items():
        try:
            category["name"] = class_name(category["name"])
        except ValueError as error:
            where = place("categories", number, category)
            yield Problem("bad name", where, f"name: {error}", ("categories", number))


def object_problems(sound: dict[str, dict[int, dict]]) -> Iterator[Problem]:
    """Objects of unknown images and categories, outside of their image, and masks that are none."""
    images = {image["id"]: image for image in sound["images"].values()}
    categories = {category["id"] for category in sound["categories"].values()}
    for number, annotation in sound["annotations"].items():
        image, mask = images.get(annotation["image_id"]), annotation.get("segmentation")
        if image is None:
            found = "image_id", f"no image has the id {shown(annotation['image_id'])}"
        elif annotation["category_id"] not in categories:
            found = "category_id", f"no category has the id {shown(annotation['category_id'])}"
        elif outside(annotation["bbox"], image):
            found = "bbox", f"{annotation['bbox']} in {image['width']}x{image['height']}"
        elif mask and (reason := mask_fault(mask, image)):
            found = "segmentation", reason
        else:
            continue
        yield annotation_problem(number, annotation, *found)


def outside(bbox: list, image: dict) -> bool:
    """Whether no part of a box is in its image."""
    x, y, width, height = bbox
    return x >= image["width"] or y >= image["height"] or x + width <= 0 or y + height <= 0


def used_classes(contents: dict[str, dict]) -> tuple[tuple[str, ...], list[str]]:
    """The names of the classes of all parts, sorted, and notes about names that are left out.

    Roboflow writes the name of the project as a category without objects, which is the
    ``supercategory`` of the others; it is no class.
    """
    categories = [c for content in contents.values() for c in content["categories"]]
    names = {category["name"] for category in categories}
    above = [c.get("supercategory") for c in categories if c["name"] != c.get("supercategory")]
    with_objects = set()
    for content in contents.values():
        ids = {annotation["category_id"] for annotation in content["annotations"]}
        with_objects |= {c["name"] for c in content["categories"] if c["id"] in ids}
    left_out = {name for name in above if isinstance(name, str)} & names - with_objects
    notes = [
        f"the category {name!r} has no objects and is the supercategory of others: it is no class"
        for name in sorted(left_out)
    ]
    return tuple(sorted(names - left_out)), notes


def labelled_images(content: dict[str, list[dict]]) -> list[LabelledImage]:
    """The images of an annotation file whose fields are sound."""
    names = {category["id"]: category["name"] for category in content["categories"]}
    images = {
        image["id"]: LabelledImage(image["file_name"], image["width"], image["height"])
        for image in content["images"]
    }
    for annotation in content["annotations"]:
        thing = labelled_object(
            names[annotation["category_id"]],
            annotation["bbox"],
            annotation.get("segmentation") or None,  # boxes alone may have empty masks
            annotation["area"],
            bool(annotation.get("iscrowd")),
        )
        images[annotation["image_id"]].objects.append(thing)
    return list(images.values())


def image_folder(file: Path, part: str, images: list[dict]) -> Path:
    """The folder with the images of an annotation file: the first that has the first image.

    ``annotations/instances_train2017.json`` may have its images in ``train2017``, ``train``,
    ``images/train2017``, ``images/train``, ``images`` or ``data``, and beside itself.

    Raises:
        UserError: none of these folders has it.
    """
    root = file.parent.parent if file.parent.name == "annotations" else file.parent
    names = [file.stem.removeprefix("instances_"), part, "valid" if part == "val" else part]
    names = [*names, *(f"images/{name}" for name in names), "images", "data", ""]
    folders = [*(root / name for name in names), file.parent]
    if not images:
        return next(folder for folder in folders if folder.is_dir())
    first = images[0]["file_name"]
    for folder in folders:
        if (folder / first).is_file():
            return folder
    tried = ", ".join(dict.fromkeys(named(folder) for folder in folders if folder.is_dir()))
    raise UserError(
        f"{named(file)}: {place('images', 0, images[0])}: file_name: {shown(first)} is in "
        f"none of the folders {tried}: give the folder of the images with --images"
    )


def missing_images(file: Path, folder: Path, images: list[dict]) -> list[Fault]:
    """One fault that names the first image without a file."""
    missing = [(i, image) for i, image in enumerate(images) if not is_file(folder, image)]
    if not missing:
        return []
    number, image = missing[0]
    reason = f"file_name: {shown(image['file_name'])} is not in {named(folder)}"
    if len(missing) > 1:
        reason += f", and {len(missing) - 1} more images are not"
    return [Fault(f"{named(file)}: {place('images', number, image)}", reason)]


def is_file(folder: Path, image: dict) -> bool:
    """Whether an image of an annotation file is a file in a folder."""
    return os.path.isfile(os.path.join(folder, image["file_name"]))


def annotation_files(folder: Path, others: bool) -> dict[str, Path]:
    """The annotation file of each part of a folder in COCO's layout; empty if it is none.

    Files of captions, keypoints and the like are left out if there are ``instances_*.json``. A
    single file of any name is that of the training.

    Args:
        folder: with ``annotations/*.json``, or with JSON files.
        others: there are labels of another format; JSON files that are not named like annotations
            have another purpose then.

    Raises:
        UserError: two files may be those of the same part.
    """
    found = {}
    for name, part in PART_FOLDERS.items():
        if (file := folder / name / ROBOFLOW).is_file():
            found[part] = file
    if found:
        return found
    files = sorted((folder / "annotations").glob("*.json"))
    if not files:
        files = [f for f in sorted(folder.glob("*.json")) if not others or TELLING.search(f.stem)]
    files = [file for file in files if file.name.startswith("instances_")] or files
    if len(files) == 1 and part_of(files[0].stem) is None:
        return {"train": files[0]}
    for file in files:
        part = part_of(file.stem)
        if part in found:
            raise UserError(
                f"{named(folder)}: both {shown(found[part].name)} and {shown(file.name)} may "
                f"be the annotations of {part}: give the file itself"
            )
        if part:
            found[part] = file
    return found


def part_of(name: str) -> str | None:
    """The part that an annotation file is for, by its name."""
    name = name.lower()
    return next((part for part in PARTS if part in name), None)
