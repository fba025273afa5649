"""The report of a work dir, from its logs, its checkpoint and the data."""

import models_mm  # isort: skip  # noqa: F401  (before mmdet, which needs it)

import json
import shutil
from pathlib import Path

import pytest
import torch
from mmdet.models import build_detector

from models_mm.cli import report as command
from models_mm.errors import UserError
from models_mm.mmdet2 import report
from models_mm.mmdet2.building import build_data
from models_mm.mmdet2.configs import load_config
from models_mm.visualization.curves import read_log
from models_mm.visualization.report import Report

TINY = Path(__file__).resolve().parents[1] / "runs/tiny.py"
EVIL = "<script>alert(1)</script>"
BAD = "2026-11-22 01:20:00,500 - mmdet - ERROR - bad image <b>.jpg replaced (is empty)\n"
RESUMED = "2026-11-22 02:30:00,500 - mmdet - INFO - resumed x/epoch_1.pth: epoch 2, 0 iterations\n"


@pytest.fixture
def work_dir(demo_data, tmp_path) -> Path:
    """What a training in two parts leaves; the data have a hostile class and file name."""
    data = shutil.copytree(demo_data, tmp_path / "data")
    for split in ("train2017", "val2017"):
        file = data / f"annotations/instances_{split}.json"
        content = json.loads(file.read_text())
        content["categories"][0]["name"] = EVIL
        image = content["images"][0]
        (data / split / image["file_name"]).rename(data / split / "<img src=x>.jpg")
        image["file_name"] = "<img src=x>.jpg"
        file.write_text(json.dumps(content))
    folder = tmp_path / "<i>work"
    folder.mkdir()
    cfg = load_config(str(TINY))
    cfg.classes = (EVIL, *cfg.classes[1:])
    for split in ("train", "val", "test"):
        name = "train2017" if split == "train" else "val2017"
        cfg.data[split].classes = cfg.classes
        cfg.data[split].ann_file = str(data / f"annotations/instances_{name}.json")
        cfg.data[split].img_prefix = f"{data / name}/"
    cfg.dump(str(folder / "config.py"))
    torch.manual_seed(0)
    model = build_detector(cfg.model)
    meta = {"CLASSES": cfg.classes, "env_info": "Python: 3.11\nPyTorch: <u>2.14</u>", "seed": 5}
    meta |= {"run": "20261122_010203_ab", "epoch": 2, "iter": 8}
    torch.save({"meta": meta, "state_dict": model.state_dict()}, folder / "epoch_2.pth")
    for stamp, epoch in (("20261121_000000", 9), ("20261122_010200", 1), ("20261122_020000", 2)):
        rows = [{"mode": "train", "epoch": epoch, "iter": i, "loss": 3.0 / i} for i in (2, 4)]
        rows[0] |= {"lr": 0.1, "time": 0.25}
        rows.append({"mode": "val", "epoch": epoch, "iter": 5, "lr": 0.1, "bbox_mAP": epoch / 10})
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{stamp}.log.json").write_text(lines)
        (folder / f"{stamp}.log").write_text(f"Config:\nx = 1\n{BAD if epoch == 1 else RESUMED}")
    return folder


def test_a_report(work_dir, capsys, monkeypatch):
    found = []
    monkeypatch.setattr(report.Report, "html", record(found, report.Report.html))
    command.main([str(work_dir), "--device", "cpu"])
    path = work_dir / "report.html"
    assert capsys.readouterr().out.splitlines()[-1] == str(path)
    html = path.read_text()
    assert "<script" not in html and "<img src=x>" not in html and "<i>work" not in html
    (content,) = found
    assert not content.notes
    assert content.title == "<i>work" and content.subtitle == "epoch_2.pth, config.py"
    assert ("best box AP", "20.0") in content.figures and ("epochs", "2") in content.figures
    assert len(content.curves) == 3 and len(content.samples) == 8
    # the bad image of the first part and the resume of the second; not those of the run before
    assert [event.split("  ")[0] for event in content.events] == [
        "2026-11-22 01:20:00",
        "2026-11-22 02:30:00",
    ]
    names = [name for name, _ in content.costs]
    assert names == ["parameters", "operations per image", "training", "inference"]
    assert ("PyTorch", "<u>2.14</u>") in content.environment
    # five images, the one with the lowest F1 first
    scores = [float(picture.text.split("F1 ")[1]) for picture in content.worst]
    assert len(scores) == 5 and scores == sorted(scores)
    assert {picture.title for picture in content.worst} >= {"<img src=x>.jpg"}


def record(found: list, html):
    """``Report.html`` that also keeps the report."""

    def called(self) -> str:
        found.append(self)
        return html(self)

    return called


def test_the_numbers_are_those_of_the_evaluation(work_dir):
    cfg = load_config(str(work_dir / "config.py"))
    dataset = build_data(cfg.data.val, "val", dict(test_mode=True))
    results = []
    for index in range(len(dataset)):  # the truth, with one class too many and one object less
        truth = dataset.get_ann_info(index)
        boxes = torch.cat(
            [torch.tensor(truth["bboxes"]), torch.full((len(truth["bboxes"]), 1), 0.9)], dim=1
        ).numpy()
        results.append([boxes[truth["labels"] == label] for label in range(5)])
    results[0] = [of_class[1:] for of_class in results[0]]
    page = Report("a", "b", score=report.SCORE)
    report.add_results(page, dataset, results, ["bbox"])
    overall, by_class = page.tables
    expected = dataset.evaluate(results, "bbox", classwise=True)
    assert overall.rows[0] == ["all", f"{100 * expected['bbox_mAP']:.1f}"]
    for name, objects, ap in by_class.rows:
        value = expected[f"bbox_mAP:{name}"]
        assert ap == (f"{100 * value:.1f}" if value >= 0 else "–") and int(objects) >= 0
    assert "0 wrong" in page.worst[0].text and ", 0 missed" not in page.worst[0].text
    counts = [[count for count, _ in row] for row in page.confusion.rows]
    missed = sum(row[-1] for row in counts)
    assert missed == sum(int(p.text.split(" found, ")[1].split(" ")[0]) for p in page.worst)


def test_what_is_missing_is_said(work_dir, tmp_path):
    shutil.rmtree(work_dir.parent / "data")
    for log in work_dir.glob("*.log.json"):
        log.unlink()
    html = report.write_report(work_dir, device="cpu").read_text()
    assert "curves: the work dir has no *.log.json" in html
    assert "accuracy: data.val: ann_file does not exist" in html
    assert "samples: data.train: ann_file does not exist" in html
    with pytest.raises(UserError, match="nowhere is no folder: give the work dir"):
        report.write_report(tmp_path / "nowhere")


def test_later_logs_replace_what_was_done_again(work_dir):
    logs = report.logs_of_run(work_dir, "20261122_010203_ab")
    assert [log.name[:8] for log in logs] == ["20261122", "20261122"]
    parts = [read_log(str(log)) for log in logs]
    train, val = report.joined(parts)
    assert [round(epoch, 2) for epoch, _ in train["loss"]] == [0.5, 1, 1.5, 2]
    assert val["bbox_mAP"] == [(1, 0.1), (2, 0.2)]
    again = report.joined([*parts, parts[0]])[1]
    assert again["bbox_mAP"] == [(1, 0.1)]
    assert len(report.logs_of_run(work_dir, None)) == 3
