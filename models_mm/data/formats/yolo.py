"""Read labels in YOLO's format (https://docs.ultralytics.com/datasets/detect, .../segment).

``data.yaml`` has the names of the classes, and for each part a folder of images, a file that lists
images, or a list of these. The labels of ``images/train/a.jpg`` are in ``labels/train/a.txt``: the
last folder ``images`` of the path becomes ``labels``. Without such a folder they are beside the
image. Each line is an object:

* ``class x_center y_center width height``: a box;
* ``class x y x y x y ...``: a polygon of three points or more.

``class`` is the position of the name, from 0. All other numbers are parts of the width and height
of the upright image, from 0 to 1. An image without a file of labels has no objects.

**Rounding:** a coordinate becomes pixels, and is rounded to a tenth of a pixel. With the usual six
decimal digits, whole pixels come back exactly in images of up to 60 000 pixels a side.
"""

import os
from pathlib import Path

from models_mm.data.fields import shown
from models_mm.data.formats.labels import (
    PARTS,
    DataSet,
    Fault,
    LabelledImage,
    Part,
    box_in_image,
    class_name,
    finite,
    image_size,
    is_image,
    labelled_object,
    leads_outside,
    named,
    polygon_area,
    read_text,
    same_label_file,
    similar_names,
    unlabelled_note,
)
from models_mm.errors import UserError

DIGITS = 1  # coordinates are rounded to a tenth of a pixel
MAX_LABELS = 2**26  # bytes of a file of labels, or of a list of images


def read_yolo(file: Path, settings: dict) -> DataSet:
    """Read the images and labels that a ``data.yaml`` names.

    Args:
        file: its path.
        settings: its content.

    Raises:
        UserError: it has no names or no training images, or a folder is missing.
    """
    names = class_names(file, settings)
    data = DataSet(file, "YOLO", tuple(sorted(names)), {}, similar_names(names))
    root = root_folder(file, settings.get("path"), data.notes)
    keypoints = "kpt_shape" in settings
    if keypoints:
        data.notes.append(f"{named(file)}: kpt_shape: keypoints are not used, boxes are")
    if not settings.get("train"):
        raise UserError(f"{named(file)}: train: missing; it names the folder of the images")
    everything: set[Path] = set()
    for part in PARTS:
        if settings.get(part):
            try:
                images = find_images(file, root, part, settings[part], data.faults)
            except UserError as error:
                if part != "test":  # no training needs it, and many sets come without it
                    raise
                data.notes.append(f"{error}; test is left out")
                continue
            data.parts[part] = read_part(file, part, images, names, keypoints, data)
            everything |= set(images)
    data.faults += labels_without_images(everything)
    return data


def class_names(file: Path, settings: dict) -> list[str]:
    """The names of the classes, by their number in the files of labels.

    Raises:
        UserError: they are missing, are no names, or appear twice.
    """
    where, names = f"{named(file)}: names", settings.get("names")
    if isinstance(names, dict):
        names = {int(k) if str(k).isdecimal() else k: name for k, name in names.items()}
        if set(names) != set(range(len(names))):
            raise UserError(f"{where}: the numbers of the classes are not 0, 1, 2, ...")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise UserError(f"{where}: missing; it lists the classes, such as names: [cat, dog]")
    found: list[str] = []
    for number, value in enumerate(names):
        try:
            name = class_name(value)
        except ValueError as error:
            raise UserError(f"{where}[{number}]: {error}") from error
        if name in found:
            raise UserError(f"{where}[{number}]: {name!r} is the name of class {found.index(name)}")
        found.append(name)
    number = settings.get("nc", len(found))
    if number != len(found):
        raise UserError(f"{named(file)}: nc: {number!r:.40}, but there are {len(found)} names")
    return found


def root_folder(file: Path, path: object, notes: list[str]) -> Path:
    """The folder that the paths of ``data.yaml`` start from: its ``path``, or its own folder."""
    if path is None:
        return file.parent
    for folder in (file.parent / str(path), Path(str(path))):
        if folder.is_dir():
            return folder
    notes.append(
        f"{named(file)}: path: there is no folder {shown(path)}; that of this file is used"
    )
    return file.parent


def find_images(
    file: Path, root: Path, part: str, entries: object, faults: list[Fault]
) -> list[Path]:
    """The images of a part, sorted; an image that is named twice is there once.

    Args:
        file: ``data.yaml``, for messages.
        root: the folder that paths start from.
        part: the key of ``data.yaml``.
        entries: its value: a folder or list file, or a list of them.
        faults: gets those of list files.

    Raises:
        UserError: a folder or list file is missing, or there are no images.
    """
    where = f"{named(file)}: {part}"
    images: set[Path] = set()
    for entry in entries if isinstance(entries, list) else [entries]:
        if not isinstance(entry, str) or "\0" in entry:
            raise UserError(f"{where}: {shown(entry)} is not a folder or a list of images")
        place = root / entry
        if entry.startswith("../") and (root / entry[3:]).exists():  # as Roboflow writes them
            place = root / entry[3:]
        if place.is_dir():
            images.update(images_below(place))
        elif place.is_file() and place.suffix == ".txt":
            images.update(listed_images(place, root, faults))
        else:
            raise UserError(f"{where}: there is no folder and no list of images {named(place)}")
    if not images and not faults:
        raise UserError(f"{where}: no images in {shown(entries)}")
    return sorted(images)


def images_below(folder: Path) -> list[Path]:
    """All images in a folder and the folders below it."""
    found = []
    for place, _, names in os.walk(folder):
        found += [Path(place, name) for name in names if is_image(Path(name))]
    return found


def listed_images(file: Path, root: Path, faults: list[Fault]) -> list[Path]:
    """The images that a file lists, one per line, relative to itself or to the data set."""
    images = []
    for number, line in enumerate(read_text(file, MAX_LABELS).splitlines(), 1):
        name = line.strip()
        if not name:
            continue
        image = next((p for p in (file.parent / name, root / name) if p.is_file()), None)
        if leads_outside(name) and not inside(file.parent / name, root):
            reason = f"{shown(name)} leads out of {named(root)}"
        elif image is None:
            reason = f"there is no image {shown(name)}"
        else:
            images.append(Path(os.path.normpath(image)))
            continue
        faults.append(Fault(f"{named(file)}:{number}", reason))
    return images


def inside(path: Path, folder: Path) -> bool:
    """Whether a path is in a folder."""
    if "\0" in str(path):
        return False
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def label_file(image: Path) -> Path:
    """The file of the labels of an image."""
    folders = list(image.parts[:-1])
    if "images" in folders:
        folders[len(folders) - 1 - folders[::-1].index("images")] = "labels"
        place = Path(*folders)
        if place.is_dir():
            return place / f"{image.stem}.txt"
    return image.with_suffix(".txt")


def read_part(
    file: Path, part: str, images: list[Path], names: list[str], keypoints: bool, data: DataSet
) -> Part:
    """Read the labels of a part; faults and notes are appended to those of the data set."""
    data.faults += same_label_file(images)
    if any(image.is_absolute() for image in images):
        images = [Path(os.path.abspath(image)) for image in images]
    folder = Path(os.path.commonpath([image.parent for image in images])) if images else file.parent
    found, unlabelled = [], []
    for image in images:
        try:
            size = image_size(image)
            labels = label_file(image)
            if labels.exists():
                objects = read_labels(labels, size, names, keypoints, data.faults)
            else:
                objects = []
                unlabelled.append(image.name)
        except UserError as error:
            data.faults.append(Fault(f"{named(file)}: {part}", str(error)))
            continue
        found.append(LabelledImage(image.relative_to(folder).as_posix(), *size, objects))
    if unlabelled and len(unlabelled) == len(images) and part != "test":
        reason = f"no image has labels; looked for {named(label_file(images[0]))}"
        data.faults.append(Fault(f"{named(file)}: {part}", reason))
    else:
        data.notes += unlabelled_note(part, unlabelled, len(images), "file of labels")
    return Part(folder, file, found)


def read_labels(
    file: Path, size: tuple[int, int], names: list[str], keypoints: bool, faults: list[Fault]
) -> list[dict]:
    """The objects of a file of labels; a fault for each line that is none.

    Raises:
        UserError: the file cannot be read.
    """
    objects = []
    for number, line in enumerate(read_text(file, MAX_LABELS).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            objects.append(read_object(words[:5] if keypoints else words, size, names))
        except ValueError as error:
            faults.append(Fault(f"{named(file)}:{number}", str(error)))
    return objects


def read_object(words: list[str], size: tuple[int, int], names: list[str]) -> dict:
    """The object of a line.

    Args:
        words: of the line.
        size: width and height of the image in pixels.
        names: of the classes.

    Raises:
        ValueError: the line is no object.
    """
    label, *values = map(finite, words)
    if not label.is_integer() or not 0 <= label < len(names):
        last = len(names) - 1
        raise ValueError(f"class {words[0]}: data.yaml has names for the classes 0 to {last} only")
    name = names[int(label)]
    if len(values) < 4 or len(values) % 2:
        raise ValueError(f"{len(words)} values are neither a box (5) nor a polygon (7, 9, 11, ...)")
    if len(values) == 4:
        x, y, width, height = scaled(values, size)
        if width <= 0 or height <= 0:
            raise ValueError(f"a box of the size {words[3]} {words[4]} has no area")
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        return labelled_object(name, box_in_image(corners, size, DIGITS))
    points = scaled(values, size)
    corners = (min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2]))
    bbox = box_in_image(corners, size, DIGITS)
    points[::2] = [min(max(round(x, DIGITS), 0), size[0]) for x in points[::2]]
    points[1::2] = [min(max(round(y, DIGITS), 0), size[1]) for y in points[1::2]]
    if polygon_area(points) == 0:
        raise ValueError("a polygon without area: it needs three points that are not on a line")
    return labelled_object(name, bbox, [points])


def scaled(values: list[float], size: tuple[int, int]) -> list[float]:
    """Pairs of parts of the width and height as pixels.

    Raises:
        ValueError: a value is far from being a part, which is from 0 to 1.
    """
    wrong = next((value for value in values if not -1 <= value <= 2), None)
    if wrong is not None:
        raise ValueError(f"{wrong:g} is no part of the width or height, which is from 0 to 1")
    return [value * size[i % 2] for i, value in enumerate(values)]


def labels_without_images(images: set[Path]) -> list[Fault]:
    """A fault for each file in a folder ``labels`` that belongs to no image.

    Args:
        images: all images of the data set; others in their folders count too.
    """
    folders = {image.parent for image in images}
    beside = {folder / name for folder in folders for name in os.listdir(folder)}
    expected = {label_file(image) for image in images | set(filter(is_image, beside))}
    faults = []
    for folder in sorted({file.parent for file in expected} - folders):
        for name in sorted(os.listdir(folder)):
            file = folder / name
            if file.suffix == ".txt" and file not in expected and name != "classes.txt":
                faults.append(Fault(named(file), "there is no image for these labels"))
    return faults
