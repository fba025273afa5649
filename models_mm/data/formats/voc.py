"""Read annotations in the format of Pascal VOC.

The format is described in http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html.
``Annotations/a.xml`` has the objects of ``JPEGImages/a.jpg``, ``ImageSets/Main/train.txt`` lists
the images of the training, one name without suffix per line. Without lists, all images are for
training. XML files beside their images, in one folder or in ``train``, ``valid`` and ``test``, are
read too. An image without an XML file has no objects. Objects that are ``difficult`` count in
neither training nor evaluation, as in the challenge; they become crowds of COCO.

**Pixels:** VOC counts pixels from 1, and ``xmin``, ``ymin``, ``xmax``, ``ymax`` are the first and
last pixels of the box. So ``xmin`` 1 and ``xmax`` 10 become x 0 and width 10. Coordinates are whole
pixels; others are rounded. Tools that count from 0 write a 0 for the first pixel: such a box is cut
at the border of the image.
"""

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from xml.parsers import expat

from models_mm.data.fields import shown
from models_mm.data.formats.labels import (
    PART_FOLDERS,
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
    read_text,
    same_label_file,
    similar_names,
    unlabelled_note,
)
from models_mm.errors import UserError

MAX_XML = 2**21  # bytes; several thousand objects
MAX_DEPTH = 20  # elements inside each other
MAX_LIST = 2**26  # bytes of a list of images


class LocatedElement(ElementTree.Element):
    """An element that knows its line.

    Attributes:
        line: of its start in the file, from 1.
    """

    __slots__ = ("line",)


class NotXml(ValueError):
    """A file is no safe XML.

    Attributes:
        line: where, from 1.
    """

    def __init__(self, line: int, reason: object):
        super().__init__(f"it is no annotation in XML: {reason}")
        self.line = line


def read_voc(source: Path) -> DataSet:
    """Read a folder in VOC's layout.

    Raises:
        UserError: a list or a folder is missing.
    """
    data = DataSet(source, "VOC", (), {})
    for part, (images, labels, names) in parts_of(source, data.faults).items():
        data.parts[part] = read_part(part, images, labels, names, data)
    found = {thing["class"] for part in data.parts.values() for thing in part.objects()}
    data.classes = tuple(sorted(found))
    data.notes += similar_names(data.classes)
    return data


def is_voc(folder: Path) -> bool:
    """Whether a folder has annotations in one of the layouts."""
    return (folder / "Annotations").is_dir() or bool(flat_folders(folder))


def flat_folders(folder: Path) -> dict[str, Path]:
    """The folders that have XML files beside their images, by part."""
    if any(folder.glob("*.xml")):
        return {"train": folder}
    below = {part: folder / name for name, part in PART_FOLDERS.items() if (folder / name).is_dir()}
    return {part: place for part, place in below.items() if any(place.glob("*.xml"))}


def parts_of(
    source: Path, faults: list[Fault]
) -> dict[str, tuple[Path, Path, list[tuple[str, str]] | None]]:
    """The folder of the images, that of the annotations, and the names with places, by part.

    The names are ``None`` where nothing lists them.

    Raises:
        UserError: there is no folder of images.
    """
    labels, images = source / "Annotations", source / "JPEGImages"
    if not labels.is_dir():
        return {part: (place, place, None) for part, place in flat_folders(source).items()}
    if not images.is_dir():
        raise UserError(f"{named(source)}: no folder JPEGImages beside Annotations")
    lists = {part: source / f"ImageSets/Main/{part}.txt" for part in PARTS}
    if not lists["train"].exists():
        lists["train"] = source / "ImageSets/Main/trainval.txt"
    found = {part: file for part, file in lists.items() if file.exists()}
    if not found:
        return {"train": (images, labels, None)}
    return {part: (images, labels, listed(file, faults)) for part, file in found.items()}


def listed(file: Path, faults: list[Fault]) -> list[tuple[str, str]]:
    """The names of a list, each with its place; a fault for each that cannot be one.

    Raises:
        UserError: the file cannot be read.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(read_text(file, MAX_LIST).splitlines(), 1):
        name, where = line.strip(), f"{named(file)}:{number}"
        if leads_outside(name):
            faults.append(Fault(where, f"{shown(name)} leads out of the folder"))
        elif name:
            found.setdefault(name, where)
    return [(name, where) for name, where in found.items()]


def read_part(
    part: str,
    images: Path,
    labels: Path,
    names: list[tuple[str, str]] | None,
    data: DataSet,
) -> Part:
    """Read the annotations of a part; faults and notes are appended to those of the data set.

    Args:
        part: its name.
        images: the folder of the images.
        labels: the folder of the XML files.
        names: of the images, with the places that name them; default: all.
        data: gets faults and notes.
    """
    files = sorted(file for file in images.glob("*") if is_image(file))
    if labels != images:
        below = sorted({file.parent for file in labels.glob("*/**/*.xml")})
        reason = "XML files in folders below Annotations are not read: move them up"
        data.faults += [Fault(named(folder), reason) for folder in below]
    by_name = {file.stem: file for file in files[::-1]}
    if names is None:
        annotated = {file.stem: named(file) for file in labels.glob("*.xml")}
        names = sorted({**{stem: "" for stem in by_name}, **annotated}.items())
    wanted = {name for name, _ in names}
    data.faults += same_label_file(file for file in files if file.stem in wanted)
    found, unlabelled = [], []
    for name, where in names:
        image, annotation = by_name.get(name), labels / f"{name}.xml"
        try:
            if image is None:
                raise UserError(f"there is no image {shown(name)} in {named(images)}")
            where = named(annotation)
            size = image_size(image)
            objects = []
            if annotation.exists():
                objects = read_annotation(annotation, size, data.faults)
            else:
                unlabelled.append(name)
        except UserError as error:
            data.faults.append(Fault(where, str(error)))
            continue
        found.append(LabelledImage(image.name, *size, objects))
    if not found and not data.faults:
        raise UserError(f"{named(images)}: no images for the annotations in {named(labels)}")
    data.notes += unlabelled_note(part, unlabelled, len(names), "XML file")
    return Part(images, labels, found)


def read_annotation(file: Path, size: tuple[int, int], faults: list[Fault]) -> list[dict]:
    """The objects of an XML file; a fault for each element that is none.

    Args:
        file: its path.
        size: width and height of the image in pixels.
        faults: gets the faults.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        root = parse_xml(read_text(file, MAX_XML))
    except NotXml as error:
        faults.append(Fault(f"{named(file)}:{error.line}", str(error)))
        return []
    said = [text(root.find(f"size/{side}")) for side in ("width", "height")]
    if all(side.isdecimal() and int(side) for side in said) and [*map(int, said)] != [*size]:
        where = f"{named(file)}:{root.find('size').line}: size"
        reason = f"{said[0]}x{said[1]}, but the image has {size[0]}x{size[1]} pixels (upright)"
        faults.append(Fault(where, reason))
        return []
    objects = []
    for element in root.findall("object"):
        try:
            objects.append(read_object(element, size))
        except ValueError as error:
            faults.append(Fault(f"{named(file)}:{element.line}: object", str(error)))
    return objects


def read_object(element: ElementTree.Element, size: tuple[int, int]) -> dict:
    """An ``object`` of an annotation.

    Args:
        element: its XML.
        size: width and height of the image in pixels.

    Raises:
        ValueError: a field is missing or wrong.
    """
    try:
        name = class_name(text(element.find("name")))
    except ValueError as error:
        raise ValueError(f"name: {error}") from error
    box = element.find("bndbox")
    if box is None:
        raise ValueError("bndbox: missing")
    left, top, right, bottom = (pixel(box, side) for side in ("xmin", "ymin", "xmax", "ymax"))
    try:
        bbox = box_in_image((left - 1, top - 1, right, bottom), size, 0)
    except ValueError as error:
        raise ValueError(f"bndbox: {error}") from error
    return labelled_object(name, bbox, crowd=text(element.find("difficult")) == "1")


def pixel(box: ElementTree.Element, side: str) -> float:
    """A coordinate of a box, in whole pixels.

    Raises:
        ValueError: it is missing or no number.
    """
    value = text(box.find(side))
    if not value:
        raise ValueError(f"bndbox: {side}: missing")
    try:
        return round(finite(value))
    except ValueError as error:
        raise ValueError(f"bndbox: {side}: {error}") from error


def text(element: ElementTree.Element | None) -> str:
    """The text of an element without white space at its ends; nothing if there is none."""
    return ((element.text if element is not None else "") or "").strip()


def parse_xml(content: str) -> LocatedElement:
    """The element ``annotation`` of a text in XML.

    Raises:
        NotXml: it is no XML, is nested too deep, or declares a document type.
    """
    parser = expat.ParserCreate("utf-8")  # what read_text has decoded is encoded again
    builder = ElementTree.TreeBuilder(element_factory=LocatedElement)
    depth = 0

    def start(name: str, attributes: dict) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError("the elements are nested too deep")
        builder.start(name, attributes).line = parser.CurrentLineNumber

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name)

    def refuse(*_) -> None:
        raise ValueError("<!DOCTYPE ...> is refused: it can declare entities")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = builder.data, refuse
    try:
        parser.Parse(content, True)
        root = builder.close()
    except expat.ExpatError as error:
        raise NotXml(error.lineno, expat.ErrorString(error.code)) from error
    except ValueError as error:
        raise NotXml(parser.CurrentLineNumber, error) from error
    if root.tag != "annotation":
        raise NotXml(root.line, f"the element is {shown(root.tag)}, not annotation")
    return root
