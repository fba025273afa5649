"""The demo data set, made as a user makes it and read as an evaluation reads it."""

import contextlib
import io
import json
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from models_mm.cli import demo as cli
from models_mm.data.demo import outlines, run_lengths
from models_mm.errors import UserError

TRAIN, VAL = 24, 20  # the smallest counts with an empty image and crowds in both splits


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


def run(*args):
    """The command in this process, with what it prints."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main([str(arg) for arg in args])
        except SystemExit as ended:
            code = ended.code
        except UserError as error:
            code = 1
            print(error, file=err)
    return Done(code, out.getvalue(), err.getvalue())


def make(out, *args):
    done = run(out, "--train", TRAIN, "--val", VAL, *args)
    assert done.returncode == 0, done.stderr
    return done


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def annotation_file(folder, split):
    return folder / "annotations" / f"instances_{split}2017.json"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "some" / "coco"
    make(out)
    return out


@pytest.fixture(params=["train", "val"])
def split(request):
    return request.param


@pytest.fixture
def coco(demo, split):
    return COCO(str(annotation_file(demo, split)))


def test_layout_is_that_of_coco(demo):
    files = contents(demo)
    assert {Path(name).parent.name for name in files} == {"annotations", "train2017", "val2017"}
    for split, count in (("train", TRAIN), ("val", VAL)):
        images = json.loads(files[f"annotations/instances_{split}2017.json"])["images"]
        names = {f"{split}2017/{image['id']:012d}.jpg" for image in images}
        assert len(names) == count
        assert names == {name for name in files if name.startswith(f"{split}2017/")}
    # Nothing is left of the place where the set was drawn.
    assert list(demo.parent.iterdir()) == [demo]


def test_entries_have_the_keys_of_coco(coco):
    data = coco.dataset
    assert {"info", "licenses", "images", "annotations", "categories"} == set(data)
    for image in data["images"]:
        assert {"id", "file_name", "height", "width", "license"} == set(image)
    keys = {"id", "image_id", "category_id", "segmentation", "area", "bbox", "iscrowd"}
    for annotation in data["annotations"]:
        assert keys == set(annotation)
        assert annotation["image_id"] in coco.imgs and annotation["category_id"] in coco.cats
    for category in data["categories"]:
        assert {"id", "name", "supercategory"} == set(category)


def test_ids_are_unique_across_splits(demo):
    data = [json.loads(annotation_file(demo, split).read_text()) for split in ("train", "val")]
    for table in ("images", "annotations"):
        ids = [entry["id"] for part in data for entry in part[table]]
        assert len(ids) == len(set(ids)) and min(ids) > 0  # pycocotools takes id 0 for no match
    assert data[0]["categories"] == data[1]["categories"]


def test_images_have_the_announced_sizes(demo, split, coco):
    for image in coco.dataset["images"]:
        pixels = cv2.imread(str(demo / f"{split}2017" / image["file_name"]))
        assert pixels.shape == (image["height"], image["width"], 3)
    ratios = [image["width"] / image["height"] for image in coco.dataset["images"]]
    assert min(ratios) < 1 < max(ratios) and len(set(ratios)) > 4


def test_boxes_and_areas_are_those_of_the_masks(coco):
    for annotation in coco.dataset["annotations"]:
        mask = coco.annToMask(annotation)
        ys, xs = np.nonzero(mask)
        x, y = xs.min(), ys.min()
        assert annotation["bbox"] == [x, y, xs.max() + 1 - x, ys.max() + 1 - y]
        assert annotation["area"] == mask.sum() >= 64


def test_polygons_lie_in_their_image(coco):
    for annotation in coco.loadAnns(coco.getAnnIds(iscrowd=False)):
        image = coco.imgs[annotation["image_id"]]
        for polygon in annotation["segmentation"]:
            points = np.array(polygon).reshape(-1, 2)
            assert len(points) >= 3
            assert (points >= 0).all() and (points <= [image["width"], image["height"]]).all()


def test_visible_parts_do_not_overlap_and_some_are_hidden(coco):
    """Masks of one image share no pixel; that something is hidden shows where boxes overlap."""
    overlapping_boxes = several_polygons = 0
    for annotations in coco.imgToAnns.values():
        assert np.sum([coco.annToMask(a) for a in annotations], axis=0).max() == 1
        boxes = np.array([a["bbox"] for a in annotations])
        overlapping_boxes += (mask_utils.iou(boxes, boxes, [0] * len(boxes)) > 0).sum() - len(boxes)
        several_polygons += sum(len(a["segmentation"]) > 1 for a in annotations if not a["iscrowd"])
    assert overlapping_boxes > 0 and several_polygons > 0


def test_crowds_are_uncompressed_rle(coco):
    crowds = coco.loadAnns(coco.getAnnIds(iscrowd=True))
    assert len(crowds) >= 2
    for crowd in crowds:
        counts, size = crowd["segmentation"]["counts"], crowd["segmentation"]["size"]
        image = coco.imgs[crowd["image_id"]]
        assert size == [image["height"], image["width"]] and sum(counts) == size[0] * size[1]
        assert cv2.connectedComponents(coco.annToMask(crowd))[0] > 3  # a heap, not one thing


def test_some_images_are_empty_and_all_categories_occur(coco):
    assert any(not coco.imgToAnns[image_id] for image_id in coco.imgs)
    assert {a["category_id"] for a in coco.dataset["annotations"]} == set(coco.cats)


def test_outlines_stand_where_the_picture_changes(demo, split, coco):
    """The annotations fit the files: moved by one pixel, any way, the masks fit them less."""
    contrast = {(dx, dy): 0.0 for dx in (-1, 0, 1) for dy in (-1, 0, 1)}
    ring = np.ones((3, 3), np.uint8)
    for image in coco.dataset["images"]:
        pixels = cv2.imread(str(demo / f"{split}2017" / image["file_name"])).astype(float)
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]], iscrowd=False)):
            mask = coco.annToMask(annotation)
            for dx, dy in contrast:
                moved = np.roll(mask, (dy, dx), axis=(0, 1))
                inner = pixels[(moved - cv2.erode(moved, ring)) > 0].mean(axis=0)
                outer = pixels[(cv2.dilate(moved, ring) - moved) > 0].mean(axis=0)
                contrast[dx, dy] += np.linalg.norm(inner - outer)
    best = contrast.pop((0, 0))
    assert best > 1.3 * max(contrast.values())


def test_polygons_are_the_drawn_masks():
    """Any mask, with holes and touching corners too, comes back from its outlines to the pixel."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width = (int(side) for side in rng.integers(1, 24, 2))
        mask = rng.random((height, width)) < rng.random()
        mask[rng.integers(height), rng.integers(width)] = True
        polygons = mask_utils.frPyObjects(outlines(mask), height, width)
        assert (mask_utils.decode(mask_utils.merge(polygons)) == mask).all()
        runs = mask_utils.frPyObjects(run_lengths(mask), height, width)
        assert (mask_utils.decode(runs) == mask).all()


def test_two_runs_write_the_same_bytes(demo, tmp_path):
    make(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(demo)


def test_an_image_does_not_depend_on_how_many_there_are(demo, tmp_path):
    assert run(tmp_path / "few", "--train", 3, "--val", 5).returncode == 0
    for split, count in (("train", 3), ("val", 5)):
        few, many = (
            json.loads(annotation_file(folder, split).read_text())
            for folder in (tmp_path / "few", demo)
        )
        assert few["images"] == many["images"][:count]
        assert few["annotations"] == many["annotations"][: len(few["annotations"])]
        for image in few["images"]:
            name = f"{split}2017/{image['file_name']}"
            assert (tmp_path / "few" / name).read_bytes() == (demo / name).read_bytes()


def test_splits_and_seeds_differ(demo, tmp_path):
    assert run(tmp_path / "other", "--train", 1, "--val", 1, "--seed", 1).returncode == 0
    pictures = [
        next(iter(sorted((folder / name).iterdir()))).read_bytes()
        for folder in (demo, tmp_path / "other")
        for name in ("train2017", "val2017")
    ]
    assert len(set(pictures)) == 4


def test_size_is_taken_up(tmp_path):
    assert run(tmp_path, "--train", 4, "--val", 1, "--size", "320x240").returncode == 0
    for image in json.loads(annotation_file(tmp_path, "train").read_text())["images"]:
        sides = image["width"], image["height"]
        assert max(sides) == 320 and 0.85 * 240 - 1 <= min(sides) <= 1.1 * 240 + 1


def test_same_arguments_leave_the_set_alone_and_others_need_overwrite(tmp_path):
    few = ("--train", 2, "--val", 1)
    out = tmp_path / "coco"
    assert run(out, *few).returncode == 0
    picture = out / "train2017" / "000000000001.jpg"
    before = picture.stat().st_mtime_ns
    again = run(out, *few)
    assert again.returncode == 0 and "nothing to do" in again.stdout
    assert picture.stat().st_mtime_ns == before

    other = run(out, *few, "--seed", 1)
    assert other.returncode == 1 and "--overwrite" in other.stderr
    picture.unlink()
    incomplete = run(out, *few)
    assert incomplete.returncode == 1 and "incomplete" in incomplete.stderr
    assert run(out, *few, "--overwrite").returncode == 0
    assert picture.is_file()


def test_a_folder_of_someone_else_is_left_alone(tmp_path):
    real = tmp_path / "annotations" / "instances_train2017.json"
    real.parent.mkdir()
    real.write_text('{"info": {"description": "COCO 2017 Dataset"}}')
    for flags in ((), ("--overwrite",)):
        done = run(tmp_path, *flags)
        assert done.returncode == 1 and "was not made by this tool" in done.stderr
        assert "Traceback" not in done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [real]


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "coco"):
        done = run(out)
        assert done.returncode == 1 and str(out) in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("--train", "-1"), "--train"),
        (("--val", "0"), "--val"),
        (("--seed", "-3"), "--seed"),
        (("--train", "many"), "'many' is no whole number"),
        (("--size", "256"), "WIDTHxHEIGHT"),
        (("--size", "256x0"), "WIDTHxHEIGHT"),
        (("--size", "-256x192"), "--size"),
        (("--size", "99999x99999"), "WIDTHxHEIGHT"),
    ],
)
def test_bad_arguments_are_usage_errors(tmp_path, args, complaint):
    done = run(tmp_path / "out", *args)
    assert done.returncode == 2
    assert complaint in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
