"""Wrong and hostile labels: one line that names file, line or field, and the way out."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models_mm.data.sources import load_data, read_data
from models_mm.data.summary import summary
from models_mm.errors import UserError

from .photos import (
    PHOTOS,
    WRITERS,
    voc_xml,
    write,
    write_coco,
    write_image,
    write_voc,
    write_yolo,
)

ROOT = Path(__file__).resolve().parents[2]


def in_yaml(old: str, new: str):
    """A data set of YOLO with another data.yaml."""

    def make(folder: Path) -> None:
        write_yolo(folder)
        file = folder / "data.yaml"
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))

    return make


def yaml_alone(content: str):
    def make(folder: Path) -> None:
        write_yolo(folder)
        write(folder / "data.yaml", content)

    return make


def line(content: str):
    """A data set of YOLO with another second line in the labels of an image."""

    def make(folder: Path) -> None:
        write_yolo(folder)
        write(folder / "labels/train/a.txt", f"0 0.5 0.5 0.1 0.1\n{content}\n")

    return make


def in_xml(old: str, new: str):
    """A data set of VOC with another annotation of an image."""

    def make(folder: Path) -> None:
        write_voc(folder)
        file = folder / "Annotations/a.xml"
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new, 1))

    return make


def coco(change):
    """A data set of COCO with another content."""

    def make(folder: Path) -> None:
        write_coco(folder)
        file = folder / "annotations/instances_train2017.json"
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return make


def field(kind: str, **values):
    return coco(lambda content: content[kind][0].update(values))


def also(write_form, change):
    def make(folder: Path) -> None:
        write_form(folder)
        change(folder)

    return make


def rename_to_latin_1(folder: Path) -> None:
    for file in ("images/train/a.jpg", "labels/train/a.txt"):
        path = folder / file
        os.rename(path, os.fsencode(path.with_name("e")) + b"\xe9" + path.suffix.encode())


def unreadable(name: str):
    return lambda folder: write(folder / name, "404 Not Found")


BOMB = """<?xml version="1.0"?>
<!DOCTYPE annotation [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>
<annotation>"""
OUTSIDE_FILE = '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotation>'
ALIASES = "a: &a [x, x]\nb: &b [*a, *a]\nnames: *b\ntrain: images\n"

# how it is made, the message
WRONG = {
    "empty folder": (Path.mkdir, "data has no labels of a known format: neither"),
    "nothing": (lambda folder: None, "no such file or folder: .*data"),
    "several formats": (
        also(write_yolo, write_coco),
        r"data has several formats: data.yaml \(YOLO\) and instances_train2017.json, .*\(COCO\): ",
    ),
    "VOC beside COCO": (also(write_voc, write_coco), r"\(COCO\) and XML files \(VOC\): move all"),
    "two files of a part": (
        lambda folder: [write(folder / f"train_{n}.json", "{}") for n in "ab"],
        "both train_a.json and train_b.json may be the annotations of train: give the file",
    ),
    # labels without images, and images without labels
    "YOLO label without image": (
        also(write_yolo, lambda folder: (folder / "images/train/a.jpg").unlink()),
        r"labels/train/a.txt: there is no image for these labels",
    ),
    "YOLO labels, no images": (
        also(write_yolo, lambda folder: [f.unlink() for f in folder.glob("images/train/*")]),
        "data.yaml: train: no images in images/train",
    ),
    "YOLO images without labels": (
        also(write_yolo, lambda folder: shutil.rmtree(folder / "labels")),
        "data.yaml: train: no image has labels; looked for .*images/train/a.txt",
    ),
    "VOC label without image": (
        also(write_voc, lambda folder: (folder / "JPEGImages/a.jpg").unlink()),
        "ImageSets/Main/train.txt:1: there is no image a in .*JPEGImages",
    ),
    "VOC without images": (
        also(write_voc, lambda folder: shutil.rmtree(folder / "JPEGImages")),
        "data: no folder JPEGImages beside Annotations",
    ),
    "COCO label without image": (
        also(write_coco, lambda folder: (folder / "train2017/a.jpg").unlink()),
        r"instances_train2017.json: images\[1\] \(id 49\): file_name: a.jpg is not in .*train2017",
    ),
    "no labels at all": (
        coco(lambda content: content.update(annotations=[], categories=[])),
        "data: train: no image has an object",
    ),
    # data.yaml
    "list for mapping": (yaml_alone("- a\n- b\n"), "data.yaml: it is no mapping: it needs lines"),
    "no names": (in_yaml("names", "labels"), "data.yaml: names: missing; it lists the classes"),
    "no train": (in_yaml("train: images/train", ""), "data.yaml: train: missing"),
    "missing folder": (
        in_yaml("images/val", "../valid/images"),
        "data.yaml: val: there is no folder and no list of images .*valid/images",
    ),
    "number for a folder": (in_yaml("images/val", "3"), "val: 3 is not a folder or a list"),
    "gap in names": (in_yaml("[apple, nut, pear]", "{0: a, 2: b}"), "names: the numbers .* 0, 1"),
    "yes as a name": (in_yaml("nut", "yes"), r"names\[1\]: True is no name: YAML reads yes, no"),
    "name twice": (in_yaml("nut", "apple"), r"names\[1\]: 'apple' is the name of class 0"),
    "wrong nc": (in_yaml("names", "nc: 4\nnames"), "data.yaml: nc: 4, but there are 3 names"),
    "no YAML": (yaml_alone("a: [b\nc: d"), "data.yaml:2: it is no plain YAML: .*expected"),
    "code in YAML": (
        yaml_alone("names: !!python/object/apply:os.mkdir [ran]"),
        "data.yaml:1: it is no plain YAML: could not determine a constructor",
    ),
    "aliases": (yaml_alone(ALIASES), r"data.yaml:2: it is no plain YAML: aliases \(\*name\) are"),
    "deep YAML": (yaml_alone("[" * 20_000), "data.yaml.*: it is no plain YAML"),
    "large YAML": (yaml_alone("#" * 2**21), "data.yaml has 2,097,152 bytes; at most 131,072"),
    "name not in UTF-8": (also(write_yolo, rename_to_latin_1), r"e\\udce9.jpg': .*not in UTF-8"),
    "YAML of a pipe": (
        also(
            write_yolo,
            lambda folder: ((folder / "data.yaml").unlink(), os.mkfifo(folder / "data.yaml")),
        ),
        "data.yaml cannot be read: it is no regular file",
    ),
    "val is train": (
        in_yaml("images/val", "images/train"),
        "data/data.yaml: val: all its images are also in train, .*: leave val out",
    ),
    "list outside": (
        also(
            in_yaml("images/train", "train.txt"),
            lambda folder: (
                write_image(folder.parent / "x.jpg", 9, 9),
                write(folder / "train.txt", "images/train/a.jpg\n../x.jpg\n"),
            ),
        ),
        r"train.txt:2: ../x.jpg leads out of .*data",
    ),
    "absolute path in a list": (
        also(
            in_yaml("images/train", "train.txt"),
            lambda folder: write(folder / "train.txt", "/etc/passwd\n"),
        ),
        "train.txt:1: /etc/passwd leads out of",
    ),
    "list of what is not there": (
        also(
            in_yaml("images/train", "train.txt"),
            lambda folder: write(folder / "train.txt", "\nimages/b.jpg\n"),
        ),
        "train.txt:2: there is no image images/b.jpg",
    ),
    # lines of YOLO's labels
    "unknown class": (line("3 0.5 0.5 0.1 0.1"), "a.txt:2: class 3: .* classes 0 to 2 only"),
    "class of -1": (line("-1 0.5 0.5 0.1 0.1"), "a.txt:2: class -1: data.yaml has names for"),
    "class of 0.5": (line("0.5 0.5 0.5 0.1 0.1"), "a.txt:2: class 0.5: data.yaml has names for"),
    "name for a class": (line("nut 0.5 0.5 0.1 0.1"), "a.txt:2: nut is not a number"),
    "no number": (line("1 0.5 0.5 wide 0.1"), "a.txt:2: wide is not a number"),
    "nan": (line("1 0.5 0.5 nan 0.1"), "a.txt:2: nan is not a number"),
    "infinite": (line("1 0.5 1e999 0.1 0.1"), "a.txt:2: 1e999 is not a number"),
    "class alone": (line("1"), "a.txt:2: 1 values are neither a box .5. nor a polygon"),
    "half a point": (line("1 0.1 0.1 0.5 0.1 0.5"), "a.txt:2: 6 values are neither a box"),
    "polygon of two points": (
        line("1 0.1 0.1 0.5 0.5 0.1 0.1"),
        "a.txt:2: a polygon without area: it needs three points that are not on a line",
    ),
    "box outside": (
        line("1 0.9 0.5 0.4 0.1"),
        r"a.txt:2: the box from 44.8, .* outside of .*64x48",
    ),
    "pixels": (line("1 32 24 10 10"), "a.txt:2: 32 is no part of the width or height, .* 0 to 1"),
    "box of no size": (line("1 0.5 0.5 0 0.1"), "a.txt:2: a box of the size 0 0.1 has no area"),
    "tiny box": (line("1 0.5 0.5 1e-9 0.1"), "a.txt:2: the box from .* has no area"),
    "no text": (
        also(
            write_yolo, lambda folder: (folder / "labels/train/a.txt").write_bytes(b"\xff\xfe0\0")
        ),
        "a.txt cannot be read: it is not text in UTF-8",
    ),
    # images
    "YOLO image": (also(write_yolo, unreadable("images/train/a.jpg")), "a.jpg is no image, or a"),
    "VOC image": (also(write_voc, unreadable("JPEGImages/a.jpg")), "a.jpg is no image, or a"),
    "YOLO stems": (
        also(write_yolo, lambda folder: write_image(folder / "images/train/a.png", 64, 48)),
        "images/train/a.png: a.jpg has the same label file; rename or remove one",
    ),
    "VOC stems": (
        also(write_voc, lambda folder: write_image(folder / "JPEGImages/a.png", 64, 48)),
        "JPEGImages/a.png: a.jpg has the same label file; rename or remove one",
    ),
    "image of a pipe": (
        also(write_yolo, lambda folder: os.mkfifo(folder / "images/train/p.jpg")),
        "p.jpg cannot be read: not a file",
    ),
    # XML
    "entity bomb": (in_xml("<annotation>", BOMB), "a.xml:2: .*<!DOCTYPE ...> is refused: it can"),
    "entity of a file": (in_xml("<annotation>", OUTSIDE_FILE), "a.xml:1: .*<!DOCTYPE ...> is ref"),
    "no XML": (in_xml("</object>", "</objekt>"), "a.xml:5: it is no annotation in XML: mismatched"),
    "cut XML": (
        in_xml("</annotation>", ""),
        "a.xml:9: it is no annotation in XML: no element found$",
    ),
    "other XML": (
        also(write_voc, lambda folder: write(folder / "Annotations/a.xml", "<svg/>")),
        "a.xml:1: it is no annotation in XML: the element is svg, not annotation",
    ),
    "deep XML": (in_xml("<filename>", "<a>" * 50_000), "a.xml:2: .*nested too deep"),
    "large XML": (in_xml("<filename>", " " * 2**22), "a.xml has 4,194,6.* bytes; at most 2,097"),
    "no bndbox": (in_xml("bndbox", "box"), "a.xml:5: it is no annotation"),
    "object without bndbox": (
        in_xml("</object>", "</object><object><name>nut</name>\n</object>"),
        "a.xml:5: object: bndbox: missing",
    ),
    "no name": (in_xml("<name>pear</name>", ""), "a.xml:4: object: name: there is no name in an"),
    "no xmax": (in_xml("<xmax>10</xmax>", ""), "a.xml:4: object: bndbox: xmax: missing"),
    "xmax is no number": (in_xml(">10</xmax>", ">x</xmax>"), "bndbox: xmax: x is not a number"),
    "xmax before xmin": (in_xml(">10</xmax>", ">-9</xmax>"), "a.xml:4: object: bndbox: the box"),
    "VOC box outside": (
        in_xml(">64</xmax>", ">99</xmax>"),
        "bndbox: the box .* outside of .*64x48",
    ),
    "size of another image": (
        in_xml("<width>64<", "<width>48<"),
        r"a.xml:3: size: 48x48, but the image has 64x48 pixels \(upright\)",
    ),
    "list of VOC outside": (
        also(write_voc, lambda folder: write(folder / "ImageSets/Main/train.txt", "a\n../b\n")),
        "train.txt:2: ../b leads out of the folder",
    ),
    # COCO
    "COCO outside": (
        field("images", file_name="../b.jpg"),
        r"images\[0\] \(id 50\): file_name: ../b.jpg leads out of the image folder",
    ),
    "COCO absolute": (field("images", file_name="/etc/passwd"), "file_name: /etc/passwd leads out"),
    "COCO on Windows": (field("images", file_name="..\\b.jpg"), r"file_name: ..\\b.jpg leads out"),
    "COCO image twice": (field("images", file_name="a.jpg"), "file_name: a.jpg is there twice"),
    "COCO two points": (
        field("annotations", segmentation=[[1, 2, 3, 4]]),
        r"annotations\[0\] \(id 900\): segmentation: 4 numbers are no polygon",
    ),
    "COCO box outside": (field("annotations", bbox=[400, 5, 9, 9]), r"bbox: \[400, 5, 9, 9\] in"),
    "COCO category": (field("annotations", category_id=3), "category_id: no category has the id 3"),
    "COCO image": (field("annotations", image_id=3), "image_id: no image has the id 3"),
    "COCO name": (
        field("categories", name=" \n"),
        r"categories\[0\] \(id 7\): name: there is no name in ",
    ),
    "COCO field": (field("annotations", bbox=[1, 2]), r"bbox: \[1, 2\] is not x, y, width"),
    # descriptions
    "unknown key": (yaml_alone("train: images\nclases: [a]\nclasses: [a]"), "no key clases; did y"),
    "class of a description": (
        lambda folder: (
            write_coco(folder / "c", val=()),
            write(folder / "data.yaml", "train: c\nclasses: [nutt]"),
        ),
        r"data.yaml: classes\[0\]: 'nutt' is no class of the data; did you mean nut\?",
    ),
    "source of a description": (
        lambda folder: write(folder / "data.yaml", "train: c\nclasses: [nut]"),
        "data.yaml: train: no such file or folder: .*data/c",
    ),
    "itself": (
        lambda folder: write(folder / "data.yaml", "train: data.yaml\nclasses: [nut]"),
        "data.yaml: train: data.yaml is a YAML file itself",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_each_wrong_use_is_named_in_one_line(tmp_path, kind):
    make, message = WRONG[kind]
    make(tmp_path / "data")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message) as error:
        load_data(tmp_path / "data")
    assert str(error.value).isprintable()
    assert sorted(tmp_path.rglob("*")) == before and not Path("ran").exists()


def test_all_faults_are_collected(tmp_path):
    line("9 0.5 0.5 0.1 0.1\n1 2 3 4 5\n0 x 0.5 0.5 0.5")(tmp_path)
    data = read_data(tmp_path)
    assert [fault.where[-7:] for fault in data.faults] == ["a.txt:2", "a.txt:3", "a.txt:4"]
    with pytest.raises(UserError, match=r"\(and 2 more: `models_mm data check` lists all\)"):
        load_data(tmp_path)


def test_images_of_another_set_are_refused_by_name(tmp_path):
    train = write_yolo(tmp_path / "train", val=())
    with pytest.raises(UserError, match="val: all its images are also in train"):
        load_data(train, val=train)
    with pytest.raises(UserError, match="--images is for a JSON file, not for a folder"):
        load_data(train, images=train)
    with pytest.raises(UserError, match="no such folder of images: .*nowhere"):
        load_data(train, images=tmp_path / "nowhere")
    with pytest.raises(UserError, match="a.txt is of no known format: give a folder"):
        load_data(train / "labels/train/a.txt")


ODD = [
    b"",
    b"\0",
    b"\xff",
    b"[",
    b"{",
    b"- ",
    b": ",
    b"!!",
    b"*a",
    b"&a ",
    b"?",
    b"9" * 5000,
    b"-1",
]
ODD += [b"1e400", b"nan", b"null", b"true", b"<a>", b"</a>", b"&x;", b"<!--", b"]]>", b"../", b"/"]
ODD += [b"\n", b"0x1F", b"2023-99-99", b"~", b"[]", b"{}", b"\xf0\x9f\x98\x80", b"\r", b"'", b'"']


@pytest.mark.parametrize("form", WRITERS)
def test_no_label_file_crashes_the_reader(tmp_path, form):
    """Any bytes at any place of any file: faults, or one UserError."""
    WRITERS[form](tmp_path)
    files = [
        f for f in sorted(tmp_path.rglob("*")) if f.suffix in (".txt", ".xml", ".yaml", ".json")
    ]

    @settings(max_examples=150, deadline=None, database=None)
    @given(st.data())
    def never_raises(data):
        file = data.draw(st.sampled_from(files))
        original = content = file.read_bytes()
        for _ in range(data.draw(st.integers(1, 3))):
            start = data.draw(st.integers(0, len(content)))
            end = start + data.draw(st.integers(0, 12))
            odd = data.draw(st.sampled_from(ODD) | st.binary(max_size=4))
            content = content[:start] + odd + content[end:]
        try:
            file.write_bytes(content)
            found = read_data(tmp_path)
            assert all(str(fault).isprintable() for fault in found.faults)
            assert all(line.isprintable() for line in summary(found))
        except UserError as error:
            assert str(error).isprintable(), error
        finally:
            file.write_bytes(original)

    never_raises()


MEMORY = 2**20  # KiB that reading a small hostile file may take, with all imports
HOSTILE = {
    "xml.xml": "<annotation>" + "<a/>" * 500_000 + "</annotation>",
    "attributes.xml": "<annotation " + " ".join(f'a{i}=""' for i in range(150_000)) + "/>",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_memory_stays_in_proportion(tmp_path, name):
    write_image(tmp_path / f"{Path(name).stem}.jpg", 64, 48)
    write(tmp_path / name, HOSTILE[name])
    write(tmp_path / "a.xml", voc_xml("a.jpg", *PHOTOS["a.jpg"]))
    write_image(tmp_path / "a.jpg", 64, 48)
    code = (
        "import sys; from models_mm.data.sources import read_data; read_data(sys.argv[1])\n"
        # the peak of this program; getrusage's may be that of pytest, which it was forked from
        "print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < MEMORY
