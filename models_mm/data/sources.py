"""Labelled images in any of the known formats: recognised, read, and refused if they are wrong.

A source is one of these:

* a JSON file in COCO's format;
* a folder in COCO's layout: ``annotations/*.json``, or Roboflow's ``train/_annotations.coco.json``;
* a ``data.yaml`` of YOLO, or the folder that has it;
* a folder in Pascal VOC's layout: ``Annotations``, ``JPEGImages``, perhaps ``ImageSets/Main``;
* a description: a YAML file with the keys ``train`` and ``classes``, and perhaps ``val``, ``test``,
  ``train_images``, ``val_images`` and ``test_images``. ``train``, ``val`` and ``test`` are sources
  themselves; ``*_images`` are the image folders of JSON files; ``classes`` selects and orders the
  classes. Paths start from the folder of the file.

Classes are sorted by name unless a description orders them: VOC has no list of classes, and equal
labels are to give equal files whatever their format is.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import yaml

from models_mm.data.fields import shown
from models_mm.data.formats.coco import annotation_files, read_coco
from models_mm.data.formats.labels import PARTS, DataSet, Fault, class_name, named, read_text
from models_mm.data.formats.voc import is_voc, read_voc
from models_mm.data.formats.yolo import read_yolo
from models_mm.errors import UserError, did_you_mean

YAML = (".yaml", ".yml")
MAX_YAML = 2**17  # bytes; thousands of classes, and seconds for the slow parser
KEYS = ("train", "val", "test", "classes", "train_images", "val_images", "test_images")


class PlainLoader(yaml.SafeLoader):
    """Reads plain YAML: aliases, which can blow up a small file, are refused."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="aliases (*name) are refused", problem_mark=mark)
        return super().compose_node(parent, index)


def load_data(
    source: str | Path,
    images: str | Path | None = None,
    val: str | Path | None = None,
    val_images: str | Path | None = None,
) -> DataSet:
    """Read labelled images.

    Args:
        source: as the module describes it.
        images: the image folder, if ``source`` is a JSON file (default: it is looked for).
        val: a source for the validation, in place of that of ``source``.
        val_images: the image folder, if ``val`` is a JSON file.

    Raises:
        UserError: names the file, and the line or field of the first fault.
    """
    data = read_data(source, images)
    if "train" not in data.parts:
        raise UserError(f"{named(data.source)} has no train, only {', '.join(data.parts)}")
    if val is not None:
        data = with_validation(data, read_data(val, val_images))
    if data.faults:
        more = len(data.faults) - 1
        rest = f" (and {more} more: `models_mm data check` lists all)" if more else ""
        raise UserError(f"{data.faults[0]}{rest}")
    return data


def read_data(source: str | Path, images: str | Path | None = None) -> DataSet:
    """Read labelled images, and collect what is wrong with them in ``faults``.

    Args:
        source: as the module describes it.
        images: the image folder, if ``source`` is a JSON file (default: it is looked for).

    Raises:
        UserError: the source is of no known format, or nothing can be read of it.
    """
    source, folder = Path(source), Path(images) if images else None
    try:
        data = _read(source, folder)
    except OSError as error:
        place = named(error.filename or source)
        raise UserError(f"{place} cannot be read: {error.strerror}") from error
    for name, part in data.parts.items():
        usable = any(not thing["iscrowd"] for thing in part.objects())
        if name != "test" and not usable and not data.faults:
            crowds = " that is no crowd and not difficult" if part.objects() else ""
            raise UserError(f"{named(source)}: {name}: no image has an object{crowds}")
    note_untrained(data)
    check_names(data)
    check_overlap(data)
    return data


def _read(source: Path, images: Path | None) -> DataSet:
    """Read a source by its suffix, or by what is in the folder."""
    name = named(source)
    if not source.exists():
        raise UserError(f"no such file or folder: {name}")
    if images is not None and not images.is_dir():
        raise UserError(f"no such folder of images: {named(images)}")
    if source.is_dir():
        if images is not None:
            raise UserError(f"{name}: --images is for a JSON file, not for a folder")
        return read_folder(source)
    if source.suffix.lower() == ".json":
        return read_coco(source, {"train": source}, {"train": images} if images else {})
    if source.suffix.lower() in YAML:
        settings = load_yaml(source)
        read = read_description if is_description(settings) else read_yolo
        return read(source, settings)
    raise UserError(
        f"{name} is of no known format: give a folder, a JSON file of COCO or a YAML file"
    )


def read_folder(folder: Path) -> DataSet:
    """Read a folder in one of the layouts.

    Raises:
        UserError: it has none of the layouts, or several.
    """
    name = named(folder)
    yaml_file = find_yaml(folder)
    settings = load_yaml(yaml_file) if yaml_file else {}
    if is_description(settings):
        return read_description(yaml_file, settings)  # what it describes may lie beside it
    voc = is_voc(folder)
    annotations = annotation_files(folder, others=voc or yaml_file is not None)
    found = {
        f"{yaml_file.name if yaml_file else ''} (YOLO)": yaml_file is not None,
        f"{', '.join(file.name for file in annotations.values())} (COCO)": bool(annotations),
        "XML files (VOC)": voc,
    }
    formats = [form for form, there in found.items() if there]
    if len(formats) > 1:
        raise UserError(
            f"{name} has several formats: {' and '.join(formats)}: move all but one out of it, or "
            "give the YAML or JSON file itself"
        )
    if yaml_file:
        return read_yolo(yaml_file, settings)
    if annotations:
        return read_coco(folder, annotations, {})
    if formats:
        return read_voc(folder)
    raise UserError(
        f"{name} has no labels of a known format: neither annotations/*.json (COCO), nor data.yaml "
        "(YOLO), nor Annotations/*.xml (VOC)"
    )


def find_yaml(folder: Path) -> Path | None:
    """The YAML file of a folder: ``data.yaml``, or the only one."""
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in YAML)
    usual = [file for file in files if file.stem == "data"]
    return usual[0] if usual else files[0] if len(files) == 1 else None


def load_yaml(file: Path) -> dict:
    """The content of a YAML file; nothing in it is run.

    Raises:
        UserError: it is no YAML, or no mapping.
    """
    name = named(file)
    try:
        content = yaml.load(read_text(file, MAX_YAML), PlainLoader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{name}{line}: it is no plain YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{name}: it is no plain YAML: {reason}") from error
    if not isinstance(content, dict):
        raise UserError(f"{name}: it is no mapping: it needs lines such as train: images/train")
    return content


def is_description(settings: dict) -> bool:
    """Whether the content of a YAML file is a description, and not YOLO's."""
    return "classes" in settings and "names" not in settings


def read_description(file: Path, settings: dict) -> DataSet:
    """Read the sources of a description.

    Raises:
        UserError: a key is unknown or wrong, or a source is.
    """
    name = named(file)
    for key, value in settings.items():
        if key not in KEYS:
            raise UserError(f"{name}: there is no key {shown(key)}{did_you_mean(key, KEYS)}")
        if key != "classes" and (not isinstance(value, str) or "\0" in value):
            raise UserError(f"{name}: {key}: {shown(value)} is not a path")
    if "train" not in settings:
        raise UserError(f"{name}: train: missing; it names the labels of the training")
    data = DataSet(file, "description", (), {})
    for part in PARTS:
        if part not in settings:
            continue
        source, images = (
            file.parent / settings[key] if key in settings else None
            for key in (part, f"{part}_images")
        )
        if source.is_file() and source.suffix.lower() in YAML:
            raise UserError(f"{name}: {part}: {shown(settings[part])} is a YAML file itself")
        try:
            found = _read(source, images)
        except UserError as error:
            raise UserError(f"{name}: {part}: {error}") from error
        data.parts[part] = found.parts.get(part) or found.parts["train"]
        data.notes += [note for note in found.notes if note not in data.notes]
        data.faults += found.faults
        data.classes = tuple(sorted({*data.classes, *found.classes}))
    select_classes(data, settings["classes"])
    return data


def select_classes(data: DataSet, classes: object) -> None:
    """Use only some of the classes, in the given order.

    Raises:
        UserError: it is no list of names, or the data have no such class.
    """
    where = f"{named(data.source)}: classes"
    if not isinstance(classes, list) or not classes:
        raise UserError(f"{where}: {shown(classes)} is not a list of names")
    selected = []
    for number, value in enumerate(classes):
        try:
            name = class_name(value)
        except ValueError as error:
            raise UserError(f"{where}[{number}]: {error}") from error
        if name not in data.classes or name in selected:
            reason = "is there twice" if name in selected else "is no class of the data"
            hint = "" if name in selected else did_you_mean(name, data.classes)
            raise UserError(f"{where}[{number}]: {name!r} {reason}{hint}")
        selected.append(name)
    if left_out := sorted(set(data.classes) - set(selected)):
        data.notes.append(f"{where}: objects of other classes are left out: {', '.join(left_out)}")
    data.classes = tuple(selected)
    for part in data.parts.values():
        for image in part.images:
            image.objects = [thing for thing in image.objects if thing["class"] in selected]


def with_validation(data: DataSet, other: DataSet) -> DataSet:
    """A data set with the validation of another source: its ``val``, or else its images."""
    val = next(other.parts[name] for name in ("val", "train", "test") if name in other.parts)
    known = set(data.classes)
    unknown = sorted({thing["class"] for thing in val.objects()} - known)
    faults = data.faults + other.faults
    faults += [
        Fault(named(val.file), f"class {name!r} is not in the training data") for name in unknown
    ]
    parts = {**data.parts, "val": val}
    notes = list(dict.fromkeys(data.notes + other.notes))
    joined = DataSet(data.source, data.format, data.classes, parts, notes, faults)
    check_overlap(joined)
    return joined


def note_untrained(data: DataSet) -> None:
    """A note on classes that the training has no object of."""
    if "train" not in data.parts:
        return
    there = {thing["class"] for thing in data.parts["train"].objects()}
    if missing := [name for name in data.classes if name not in there]:
        data.notes.append(f"no object in train of: {', '.join(missing[:20])}")


def check_names(data: DataSet) -> None:
    """A fault for each image whose name cannot be written into a JSON or text file."""
    for part in data.parts.values():
        for image in part.images:
            try:
                image.name.encode()
            except UnicodeEncodeError:
                where = named(part.folder / image.name)
                data.faults.append(Fault(where, "its name is not in UTF-8: rename the file"))


def check_overlap(data: DataSet) -> None:
    """A fault if all images of the validation are trained on, and a note if some are."""
    if "train" not in data.parts or "val" not in data.parts:
        return
    train, val = data.parts["train"].paths(), data.parts["val"].paths()
    common = train & val
    if not common:
        return
    if common == val:
        reason = (
            "val: all its images are also in train, so it would measure nothing new: leave val out "
            "(a part of train is split off), or give other images"
        )
        data.faults.append(Fault(named(data.source), reason))
        return
    first = shown(os.path.basename(min(common)))
    data.notes.append(
        f"{len(common)} of {len(val)} images of val are also in train, the first: {first}"
    )


def files_of(data: DataSet) -> Iterable[Path]:
    """The files that a data set was read from, as far as they are named: labels and images."""
    yield data.source
    for part in data.parts.values():
        yield part.file
        yield from (part.folder / image.name for image in part.images)
