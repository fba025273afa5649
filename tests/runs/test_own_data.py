"""``models_mm train MODEL --data DATA``: whole trainings, and wrong uses."""

import models_mm  # noqa: F401  isort: skip
import json
import re
import shutil
from pathlib import Path

import pytest

from models_mm.cli import train as training
from models_mm.errors import UserError

from ..drawn import draw
from .conftest import ROOT, TINY, checkpoint, differences

SMALL = ("--epochs", "2", "--size", "64", "48")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Labelled images without validation: ten, in COCO's layout."""
    folder = draw(tmp_path_factory.mktemp("own") / "photos", train=10, val=1)
    shutil.rmtree(folder / "val2017")
    (folder / "annotations/instances_val2017.json").unlink()
    return folder


def losses(work: Path) -> list[float]:
    (log,) = work.glob("*.log.json")
    records = [json.loads(line) for line in log.open()]
    return [record["loss"] for record in records if record.get("mode") == "train"]


def run(*words) -> None:
    training.main([str(word) for word in words])


def test_a_folder_becomes_a_detector(photos, tmp_path, capsys):
    """And the config that is written gives the same weights again."""
    first, again = tmp_path / "first", tmp_path / "again"
    settings = ("log_config.interval=1", "data.workers_per_gpu=0")  # workers need a real stderr
    run(TINY, "--data", photos, "--out", first, *SMALL, "--cfg-options", *settings)
    captured = capsys.readouterr()
    said, shown = captured.out, captured.err
    assert "val is 2 of the 10 images of train (share 0.2, seed 0, stratified" in said
    assert "5 classes: cross, ellipse" in said
    assert "--cfg-options" in said
    assert shown.count(f"last: {first}/epoch_2.pth (epoch 2): bbox_mAP") == 1
    before = (said + shown).split("epoch 1/2 1/")[0]
    assert before.startswith(f"models_mm {models_mm.__version__}: ") and before.count("\n") < 25
    assert {"config.py", "data.yaml", "val.txt", "results.json", "report.html"} <= {
        p.name for p in first.iterdir()
    }
    steps = int(re.search(r"2 epochs of (\d+) steps", said)[1])
    assert steps > 3 and len(losses(first)) == 2 * steps

    run(first / "config.py", "--work-dir", again)
    assert losses(again) == losses(first)
    assert differences(checkpoint(first), checkpoint(again)) == []

    moved = tmp_path / "moved"
    shutil.copytree(first, moved)
    for file in moved.glob("*.pth"):
        file.unlink()
    run(moved / "config.py")  # the folder of the config is the work dir, wherever it is
    assert differences(checkpoint(first), checkpoint(moved)) == []


def test_the_same_command_goes_on(photos, tmp_path):
    command = (TINY, "--data", photos, "--out", tmp_path / "run", *SMALL)
    run(*command)
    before = checkpoint(tmp_path / "run")
    run(*command, "--auto-resume")
    assert differences(before, checkpoint(tmp_path / "run")) == []
    with pytest.raises(UserError, match="config.py is there already and differs: give another"):
        run(*command, "--lr", "0.5")


def test_a_detector_is_trained_further(photos, tmp_path):
    """From its checkpoint, without the file that its backbone once started from."""
    run(TINY, "--data", photos, "--out", tmp_path / "first", *SMALL)
    config = tmp_path / "pretrained.py"
    lost = dict(type="Pretrained", checkpoint="pretrain/lost.pth")
    config.write_text(f"_base_ = {TINY!r}\nmodel = dict(backbone=dict(init_cfg={lost}))\n")
    command = (config, "--data", photos, "--out", tmp_path / "second", *SMALL)
    with pytest.raises(UserError, match="not found: pretrain/lost.pth"):
        run(*command)
    assert not (tmp_path / "second").exists()
    run(*command, "--from", tmp_path / "first/latest.pth")
    assert (tmp_path / "second/epoch_2.pth").is_file()
    # and so does a config of one's own
    loaded = f"load_from={tmp_path}/first/latest.pth"
    written = tmp_path / "second/config.py"
    text = written.read_text().replace("init_cfg=None", f"init_cfg={lost}")
    (tmp_path / "third.py").write_text(text.replace("{{ fileDirname }}", str(tmp_path / "second")))
    run(tmp_path / "third.py", "--work-dir", tmp_path / "third", "--cfg-options", loaded)


def test_other_labels_and_other_settings_are_another_run(photos, tmp_path):
    """Before a training they replace the config; after it they would mix two runs."""
    data = shutil.copytree(photos, tmp_path / "data", symlinks=True)
    command = (TINY, "--data", data, "--out", tmp_path / "run", *SMALL)
    with pytest.raises(UserError, match="checkpoint not found: lost.pth"):
        run(
            *command,
            "--cfg-options",
            "model.backbone.init_cfg.type=Pretrained",
            "model.backbone.init_cfg.checkpoint=lost.pth",
        )
    run(*command)
    labels = data / "annotations/instances_train2017.json"
    content = json.loads(labels.read_text())
    content["annotations"][0]["bbox"][0] += 1
    labels.write_text(json.dumps(content))
    before = (tmp_path / "run/annotations/train.json").read_bytes()
    for more in ((), ("--auto-resume",)):
        with pytest.raises(UserError, match="json, the labels of that run, is there already and"):
            run(*command, *more)
    assert (tmp_path / "run/annotations/train.json").read_bytes() == before


@pytest.mark.slow
def test_two_processes_and_dist_train(photos, run_tool, tmp_path):
    """``--gpus 2`` and ``dist_train.sh DIR/config.py 2``: equal losses; with other seeds too."""
    for seed in ("0", "5"):
        work = tmp_path / seed
        words = (TINY, "--data", photos, "--out", work, "--gpus", 2, "--seed", seed, *SMALL)
        done = run_tool(ROOT / "tools/train.py", *words)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stderr.count(f"last: {work}/epoch_2.pth") == 1
        other = tmp_path / f"other{seed}"
        done = run_tool(ROOT / "dist_train.sh", work / "config.py", 2, "--work-dir", other)
        assert done.returncode == 0, done.stderr[-3000:]
        assert losses(work) and losses(work) == losses(other)
        assert differences(checkpoint(work), checkpoint(other)) == []
    assert losses(tmp_path / "0") != losses(tmp_path / "5")


@pytest.mark.slow
def test_from_python(photos, tmp_path):
    found = models_mm.train(
        TINY, photos, out=tmp_path / "run", epochs=3, size=(64, 48), patience=1, gpus=2
    )
    assert found.last.name.startswith("epoch_") and found.config.is_file()
    assert 0 <= found.metrics["last"]["bbox_mAP"] <= 1
    detector = models_mm.Detector(found.config, found.last)
    assert detector.classes == ("cross", "ellipse", "rectangle", "star", "triangle")
    with pytest.raises(UserError, match="no such file or folder: "):
        models_mm.train("recnext_tiny", tmp_path / "nothing")
    for wrong in (dict(epochs=0), dict(batch=2.5), dict(size="big"), dict(gpus=-1)):
        with pytest.raises(UserError, match=f"{next(iter(wrong))} must be"):
            models_mm.train("recnext_tiny", photos, **wrong)


@pytest.mark.slow
def test_the_small_detector(photos, tmp_path):
    """By its name, for masks and for boxes, with another backbone."""
    short = ("--epochs", "1", "--size", "96", "--from", "scratch")
    run("recnext_tiny", "--data", photos, "--out", tmp_path / "masks", *short)
    found = json.loads((tmp_path / "masks/results.json").read_text())
    assert "segm_mAP" in found["last"]["metrics"]
    words = ("faster_rcnn_recnext_tiny", "--data", photos, "--backbone", "dfvt_t")
    run(*words, "--out", tmp_path / "boxes", *short)
    assert 'type="dfvt_t"' in (tmp_path / "boxes/config.py").read_text()


@pytest.fixture
def wrong(photos, tmp_path, monkeypatch) -> Path:
    """A folder of wrong data, which is the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "photos").symlink_to(photos)
    (tmp_path / "file").touch()
    content = json.loads((photos / "annotations/instances_train2017.json").read_text())
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    boxes = tmp_path / "boxes"
    (boxes / "annotations").mkdir(parents=True)
    (boxes / "train2017").symlink_to(photos / "train2017")
    content["annotations"] = [one for one in content["annotations"] if not one["iscrowd"]]
    (boxes / "annotations/instances_train2017.json").write_text(json.dumps(content))
    (tmp_path / "old").mkdir()
    (tmp_path / "old/notes.txt").touch()
    shutil.copytree(photos, tmp_path / "damaged")
    for image in (tmp_path / "damaged/train2017").iterdir():
        image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    return tmp_path


OF_DATA = {
    "recnext_m3 --data nowhere": "no such file or folder: '?nowhere",
    "recnext_m3 --data empty": "empty has no labels of a known format",
    "recnext_m9 --data photos": "no model 'recnext_m9'; the nearest: recnext_m5",
    "mask_rcnn_recnext --data photos": "is the beginning of 7 models",
    "nowhere.py --data photos": "config not found: nowhere.py",
    "recnext_m3 --data photos": "checkpoint not found: pretrain/recnext_m3_distill_300e.pth",
    "recnext_m3 --data photos --from lost.pth": "checkpoint not found: lost.pth",
    "recnext_m3 --data photos --val photos": "val: all its images are also in train",
    "mask_rcnn_recnext_m3 --data boxes": "have boxes only: train faster_rcnn_recnext_m3 instead",
    "recnext_tiny --data photos --backbone dfvt_x": "no backbone 'dfvt_x'; the nearest: dfvt_",
    "recnext_tiny --data photos --epochs 3 --patience 3": "patience=3 can have no effect: the run",
    "recnext_tiny --data photos --out old": "old is not empty",
    "recnext_tiny --data photos --cfg-options modle=3": "no modle; did you mean model",
    "recnext_tiny --data photos --freeze 9": "model cannot be built: .*frozen_stages must be",
    "recnext_tiny --data photos --images photos": "--images is for a JSON file",
    "recnext_tiny --data photos --cfg-options work_dir=x": "work_dir does not go .*: use --out",
    "recnext_tiny --data photos --cfg-options data.train.classes=[star]": "it follows from --data",
    "recnext_tiny --data photos --cfg-options load_from=x.pth": "with --data: use --from",
    "recnext_tiny --data photos --from old/notes.txt": "old/notes.txt",
    "recnext_tiny --data damaged": "val: .*: replace it, or remove it from the data",
}
OF_OPTIONS = {
    "recnext_m3 --epochs 3": "--epochs needs --data",
    "recnext_m3 --from x.pth": "--from needs --data",
    "recnext_m3 --data photos --epochs 0": "--epochs: must be a whole number, 1 to 100000",
    "recnext_m3 --data photos --size 5": "--size: must be a whole number, 32 to 16384",
    "recnext_m3 --data photos --size 50 50 50": "--size: one or two numbers",
    "recnext_m3 --data photos --lr 0": "--lr: must be a number greater than 0",
    "recnext_m3 --data photos --work-dir x": "--work-dir does not go with --data: use --out",
    "recnext_m3 --data photos --no-validate": "--no-validate does not go with --data",
    "recnext_m3 --data photos --gpus 0": "--gpus must be 1 or more",
    "recnext_m3 --data photos --out file": "cannot be a folder",
    "recnext_m3 --data photos --launcher pytorch": "--launcher does not go with --data: --gpus N",
}


@pytest.mark.parametrize("words", OF_DATA)
def test_wrong_uses_are_one_line_and_write_nothing(wrong, words, monkeypatch):
    before = sorted(wrong.rglob("*"))
    with pytest.raises(UserError, match=OF_DATA[words]) as error:
        run(*words.split())
    if "checkpoint" not in OF_DATA[words]:  # these also say where it is published
        assert "\n" not in str(error.value)
    assert sorted(wrong.rglob("*")) == before


@pytest.mark.parametrize("words", OF_OPTIONS)
def test_wrong_options(wrong, words, capsys):
    with pytest.raises(SystemExit) as end:
        run(*words.split())
    assert end.value.code == 2 and OF_OPTIONS[words] in capsys.readouterr().err
