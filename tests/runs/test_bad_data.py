"""Bad images and losses in a training: named, counted, and survived up to a limit."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.datasets.pipelines import RandomCrop

from models_mm.cli.command import explained_faults
from models_mm.cli.train import main as train_main
from models_mm.data.sampling import SeededSamples
from models_mm.errors import UserError

from .conftest import ROOT, TINY, checkpoint, differences, options


@pytest.fixture
def data(demo_data, tmp_path) -> Path:
    """A data set that a test may spoil."""
    return shutil.copytree(demo_data, tmp_path / "data")


@pytest.fixture(autouse=True)
def log_is_seen(monkeypatch):
    """mmcv's logger keeps what it says from pytest."""
    monkeypatch.setattr(logging.getLogger("mmdet"), "propagate", True)


def train(data: Path, work: Path, *more: str, arguments=()) -> None:
    settings = options(data, *more)
    train_main([TINY, "--work-dir", str(work), "--no-validate", *arguments, *settings])


def images(data: Path) -> list[Path]:
    """The images that are trained on."""
    content = json.loads((data / "annotations" / "instances_train2017.json").read_text())
    used = {a["image_id"] for a in content["annotations"] if not a["iscrowd"]}
    return [data / "train2017" / i["file_name"] for i in content["images"] if i["id"] in used]


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-300])


def empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("spoil", [cut, empty, Path.unlink])
@pytest.mark.parametrize("workers", [0, 1])
def test_one_bad_image_is_replaced_and_named(data, tmp_path, caplog, spoil, workers):
    bad = images(data)[1]
    spoil(bad)
    train(data, tmp_path / "w", f"data.workers_per_gpu={workers}", "runner.max_epochs=2")
    assert f"bad image {bad.name} replaced" in caplog.text
    assert caplog.text.count(bad.name) == 2  # once, and the path in the reason
    assert checkpoint(tmp_path / "w")["meta"]["epoch"] == 2


def test_replacements_are_repeatable(data, tmp_path):
    """A run over a bad image goes on exactly too."""
    empty(images(data)[0])
    train(data, tmp_path / "a", "checkpoint_config.iterations=3", arguments=["--seed", "5"])
    (tmp_path / "b").mkdir()
    shutil.copy(sorted((tmp_path / "a").glob("interim_*.pth"))[0], tmp_path / "b")
    train(data, tmp_path / "b", "checkpoint_config.iterations=3", arguments=["--auto-resume"])
    assert not differences(checkpoint(tmp_path / "a"), checkpoint(tmp_path / "b"))


def test_too_many_bad_images_end_the_run(data, tmp_path):
    for bad in images(data)[:3]:
        empty(bad)
    with pytest.raises(UserError, match="2 of 8 images cannot be used.*allows 1") as error:
        train(data, tmp_path / "w")
    assert "tools/check_dataset.py" in str(error.value)
    train(data, tmp_path / "w", "faults.bad_images=3")


def test_an_assertion_without_words_is_quoted():
    """mmdet's transforms have such for settings that are wrong."""

    class Images:
        data_infos = [dict(filename="1.jpg")]
        flag = np.zeros(1)

        def __getitem__(self, index):
            return RandomCrop((9, 4), "absolute_range")._get_crop_size((20, 20))

    with pytest.raises(UserError, match=r"1\.jpg \(AssertionError: assert self\.crop_size\[0\] <="):
        SeededSamples(Images())[0, (1,)]


def test_no_image_at_all(data, run_tool, tmp_path):
    """Found by a data worker: one message, no traceback."""
    for bad in images(data):
        empty(bad)
    command = (ROOT / "tools/train.py", TINY, "--work-dir", tmp_path / "w", "--no-validate")
    done = run_tool(*command, *options(data))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "error: 20 images in a row cannot be used, the last one" in done.stderr


@pytest.mark.parametrize("spoil", [empty, Path.unlink])
def test_a_missing_validation_image_is_named_before_the_training(data, tmp_path, spoil):
    bad = sorted((data / "val2017").glob("*.jpg"))[2]
    spoil(bad)
    with pytest.raises(UserError, match=str(bad)):
        train_main([TINY, "--work-dir", str(tmp_path / "w"), *options(data)])
    assert not list((tmp_path / "w").glob("*.pth"))


def as_text(file: Path) -> None:
    file.write_text("404 Not Found")


@pytest.mark.parametrize("spoil", [cut, as_text])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_validation_image_ends_the_evaluation_by_name(data, tmp_path, spoil, workers):
    """After the checkpoint, so that nothing is lost."""
    bad = sorted((data / "val2017").glob("*.jpg"))[2]
    spoil(bad)
    more = (f"data.val_dataloader.workers_per_gpu={workers}", "runner.max_epochs=1")
    with pytest.raises(UserError) as error, explained_faults():
        train_main([TINY, "--work-dir", str(tmp_path / "w"), *options(data, *more)])
    assert str(bad) in str(error.value) and len(str(error.value).splitlines()) == 1
    assert checkpoint(tmp_path / "w")["meta"]["epoch"] == 1


def test_degenerate_boxes_alone(data, tmp_path):
    """An image whose objects are all degenerate is trained on as one without objects."""
    file = data / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    one = content["annotations"][0]["image_id"]
    for annotation in content["annotations"]:
        if annotation["image_id"] == one:
            annotation["bbox"][2] = 0
    file.write_text(json.dumps(content))
    train(data, tmp_path / "w", "runner.max_epochs=1")
    assert checkpoint(tmp_path / "w")["meta"]["epoch"] == 1


NAN = ("optimizer.lr=1e30", "lr_config.warmup=None", "runner.max_epochs=20")


def test_a_loss_that_is_not_finite_ends_the_run(data, tmp_path):
    with pytest.raises(UserError, match="not finite") as error:
        train(data, tmp_path / "w", *NAN, "checkpoint_config=None")
    said = str(error.value)
    assert "iteration 2, images 0000" in said and "There is no checkpoint yet" in said
    assert "faults.nonfinite_loss=skip" in said


def test_weights_that_are_not_finite_are_not_written(data, tmp_path):
    """A step can spoil them before a loss shows it."""
    train(data, tmp_path / "w", "runner.max_epochs=1", "checkpoint_config.iterations=1")
    before = checkpoint(tmp_path / "w")
    before["optimizer"]["state"][0]["exp_avg"].fill_(float("inf"))
    torch.save(before, tmp_path / "w" / "epoch_1.pth")
    with pytest.raises(
        UserError, match="is not finite any more at iteration .*nothing was written"
    ):
        more = ("runner.max_epochs=3", "checkpoint_config.iterations=1")
        longer = ["--auto-resume", "--allow-config-changes"]
        train(data, tmp_path / "w", *more, arguments=longer)
    weights = checkpoint(tmp_path / "w")["state_dict"].values()
    assert all(torch.isfinite(value).all() for value in weights)


def test_skipping_leaves_the_step_out(data, tmp_path, caplog, monkeypatch):
    """A third batch that gives NaN: weights and norms' statistics as if it had not been there."""
    from mmdet.models import RetinaHead

    original = RetinaHead.forward_train
    names = []

    def spoiled(self, x, metas, *args, **kwargs):
        losses = original(self, x, metas, *args, **kwargs)
        names.append(metas[0]["ori_filename"])
        if len(names) == 3:
            losses["loss_cls"] = [loss * float("nan") for loss in losses["loss_cls"]]
        return losses

    monkeypatch.setattr(RetinaHead, "forward_train", spoiled)
    train(data, tmp_path / "w", "faults.nonfinite_loss=skip", "runner.max_epochs=1")
    assert f"iteration 3, images {names[2]}: loss_cls nan" in caplog.text
    assert caplog.text.count("step left out") == 1
    found = checkpoint(tmp_path / "w")
    assert all(torch.isfinite(value).all() for value in found["state_dict"].values())
    steps = {int(state["step"]) for state in found["optimizer"]["state"].values()}
    assert steps == {found["meta"]["iter"] - 1}
    names.clear()
    with pytest.raises(UserError, match="iteration 3, .*last good checkpoint is .*interim_2.pth"):
        train(data, tmp_path / "x", "checkpoint_config.iterations=1")


def test_out_of_memory_names_sizes_and_options(data, tmp_path, monkeypatch):
    """What a GPU raises, raised here by hand: it takes a GPU to run out of its memory."""
    from mmdet.models import RetinaHead

    def full(*args, **kwargs):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(RetinaHead, "forward_train", full)
    with pytest.raises(UserError, match="rank 0 ran out of GPU memory in iteration 1") as error:
        train(data, tmp_path / "w", "data.samples_per_gpu=2")
    said = str(error.value)
    assert "with 2 images of (" in said and ", 3), (" in said
    assert all(option in said for option in ("with_cp", "samples_per_gpu", "img_scale", "fp16"))
