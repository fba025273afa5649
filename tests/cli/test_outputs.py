"""What tools write stays in the folder given, over no input, whatever names the data have."""

import models_mm  # isort: skip  # noqa: F401  (before mmdet, which needs it)

import json
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmcv import Config
from mmdet.models import build_detector

from models_mm.cli import (
    analyze,
    benchmark_eval,
    browse,
    convert,
    plot,
    predict,
    show,
    test,
)
from models_mm.errors import UserError

TINY = Path(__file__).resolve().parents[1] / "runs/tiny.py"
CLASSES = ("../cat", "a/b", "allclass", "$x^{$", "ordinary")
PICTURES = ("1.jpg", "sub/1.jpg", "../1.jpg", "sub/../2.jpg")  # relative to the images


class Case:
    """A hostile data set, a config that reads it, a checkpoint, and results."""

    def __init__(self, base: Path):
        rng = np.random.default_rng(0)
        self.base, self.images, self.out = base, base / "data/images", base / "data/out"
        (self.images / "sub").mkdir(parents=True)
        names = [*PICTURES, str(base / "far.jpg")]
        for name in names:
            cv2.imwrite(str(self.images / name), rng.integers(0, 255, (48, 64, 3), np.uint8))
        categories = [{"id": 9 - i, "name": name} for i, name in enumerate(CLASSES)]
        annotations = [
            dict(id=n, image_id=n // 5, category_id=9 - n % 5, bbox=[8, 8, 30, 30], area=900)
            for n in range(20)  # the last image has none
        ]
        images = [dict(id=i, file_name=n, width=64, height=48) for i, n in enumerate(names)]
        content = dict(images=images, categories=categories, annotations=annotations)
        self.annotations = base / "truth.json"
        self.annotations.write_text(json.dumps(content))
        self.config = base / "config.py"
        data = dict(classes=CLASSES, ann_file=str(self.annotations), img_prefix=f"{self.images}/")
        self.config.write_text(
            f"_base_ = {str(TINY)!r}\ndata = dict(train={data}, val={data}, test={data})\n"
        )
        self.checkpoint = base / "random.pth"
        torch.manual_seed(0)
        model = build_detector(Config.fromfile(str(TINY)).model)
        torch.save(dict(state_dict=model.state_dict(), meta=dict(CLASSES=CLASSES)), self.checkpoint)
        self.results = base / "results.pkl"
        (base / "elsewhere").mkdir()

    def files(self) -> dict[Path, bytes]:
        """All files outside the output folder."""
        found = (p for p in self.base.rglob("*") if p.is_file())
        return {p: p.read_bytes() for p in found if self.out not in p.parents}

    def into(self, folder: str) -> dict[Path, bytes]:
        """Choose an output folder; all files outside it."""
        self.out = self.base / folder
        return self.files()

    def test(self, *options) -> None:
        test.main(
            [str(self.config), str(self.checkpoint), "--work-dir", str(self.base / "work")]
            + list(map(str, options))
        )


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Case:
    found = Case(tmp_path_factory.mktemp("hostile"))
    found.test("--out", found.results)
    return found


def call(command, *arguments) -> None:
    """A command's main with a command line."""
    command.main([str(argument) for argument in arguments])


def pictures(folder: Path) -> list[str]:
    """The names of readable pictures in a folder and those below it."""
    files = [p for p in folder.rglob("*") if p.suffix in (".jpg", ".png")]
    assert all(cv2.imread(str(p)) is not None for p in files)
    return sorted(str(p.relative_to(folder)) for p in files)


def test_show_dir(case, tmp_path):
    """An input is not written over, even where the folder is that of the images."""
    before = case.into("shown")
    case.test("--show-dir", case.out, "--show-score-thr", 0)
    assert case.files() == before
    far = str(case.base / "far.jpg").lstrip("/")
    assert pictures(case.out) == sorted(["1.jpg", "sub/1.jpg", "1_2.jpg", "sub/2.jpg", far])
    case.test("--show-dir", case.images)
    left = case.files()
    assert {file: left[file] for file in before} == before
    assert (case.images / "1_2.jpg").is_file() and (case.images / "sub/1_2.jpg").is_file()
    for file in left.keys() - before.keys():
        assert case.images in file.parents
        file.unlink()


def test_show_results(case):
    before = case.into("beside")
    call(show, case.config, case.results, "--out", case.out)
    assert case.files() == before
    assert pictures(case.out) == ["1.png", "1_2.png", "1_3.png", "2.png", "far.png"]


def test_analyze_results(case):
    """Files of the user's own with the names of temporary ones are left alone, too."""
    before = case.into("analysis")
    (case.out / "bbox").mkdir(parents=True)
    mine = [case.out / name for name in ("truth.json", "results.bbox.json")]
    for file in mine:
        file.write_text("mine")
    (case.out / "confusion_matrix.png").symlink_to(case.base / "elsewhere/matrix.png")
    call(analyze, case.config, case.results, "--out", case.out)
    assert case.files() == before
    assert [file.read_text() for file in mine] == ["mine", "mine"]
    found = pictures(case.out)
    assert "confusion_matrix.png" in found and "bbox/bbox-allclass-allarea.png" in found
    assert "bbox/bbox-allclass_-allarea.png" in found and "bbox/bbox-.._cat-small.png" in found
    assert len(found) == 1 + 6 * 4


def test_predict(case):
    """Images of one name from several folders, one of them that of the pictures."""
    kept = {file: file.read_bytes() for file in case.images.rglob("*.jpg")}
    outside = case.into("data/images")
    inputs = [case.images, case.images / "sub/1.jpg", case.base / "data/1.jpg", case.images / "sub"]
    arguments = ("--config", case.config, "--checkpoint", case.checkpoint, "--out", case.images)
    call(predict, *inputs, *arguments, "--device", "cpu")
    assert case.files() == outside
    assert {file: file.read_bytes() for file in kept} == kept
    content = json.loads((case.images / "predictions.json").read_text())
    new = [p for p in case.images.rglob("*") if p.is_file() and p not in kept]
    assert len(new) == len(content["images"]) + 1
    for file in new:
        file.unlink()


def test_files_that_are_read_are_not_written(case):
    before = case.into("out")
    checkpoint = case.base / "random.pkl"
    checkpoint.hardlink_to(case.checkpoint)
    log = case.base / "log.json"
    log.write_text("{}")
    plotted = case.base / "log.png"
    plotted.write_text("{}")
    prefix = case.base / "annotated"
    Path(f"{prefix}.bbox.json").symlink_to(case.annotations)
    calls = [
        lambda: case.test("--out", checkpoint),
        lambda: case.test("--format-only", "--eval-options", f"jsonfile_prefix={prefix}"),
        lambda: call(browse, case.config, "--out", case.images / "1.jpg"),
        lambda: call(plot, plotted, "--out", plotted),
        lambda: call(benchmark_eval, "--ann", log, "--out", log),
        lambda: call(convert, "rewrite", case.checkpoint, checkpoint),
    ]
    for act in calls:
        with pytest.raises(UserError, match="is read by this command: write to another file"):
            act()
    left = case.files()
    assert {file: left[file] for file in before} == before


def test_a_checkpoint_of_other_classes_is_noticed(case):
    """Its labels are the config's, which a warning says; the same classes say nothing."""
    content = torch.load(case.checkpoint)
    content["meta"]["CLASSES"] = (*CLASSES[:3], *CLASSES[:2:-1])
    other = case.base / "other.pth"
    torch.save(content, other)
    arguments = [str(case.config), str(other), "--work-dir", str(case.base / "work")]
    with pytest.warns(UserWarning, match="class 3 of .*other.pth is 'ordinary'.* it is '.x"):
        test.main([*arguments, "--eval", "bbox"])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="class .* of")
        case.test("--eval", "bbox")


def test_the_precision_of_each_class_is_written(case):
    """In eval_<time>.json, as valid JSON; -1 of a class without objects."""
    content = json.loads(case.annotations.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] != 9]
    lacking = case.base / "lacking.json"
    lacking.write_text(json.dumps(content))
    work = case.base / "classwise"
    options = ("--work-dir", work, "--eval-options", "classwise=True", "--eval", "bbox")
    case.test(*options, "--cfg-options", f"data.test.ann_file={lacking}")
    (file,) = work.glob("eval_*.json")
    metric = json.loads(file.read_text(), parse_constant=pytest.fail)["metric"]
    of_classes = {k.removeprefix("bbox_mAP:"): v for k, v in metric.items() if ":" in k}
    assert list(of_classes) == list(CLASSES) and of_classes["../cat"] == -1
    known = [value for name, value in of_classes.items() if name != "../cat"]
    assert metric["bbox_mAP"] == pytest.approx(np.mean(known), abs=2e-4)
