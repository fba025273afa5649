"""Configs are found, overridden and checked; what is wrong is named before anything starts."""

import pytest

import models_mm  # noqa: F401
from models_mm.errors import UserError
from models_mm.mmdet2.configs import check_files, load_config

M3 = "configs/recnext/mask_rcnn_recnext_m3_fpn_1x_coco.py"


def test_a_config_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config(M3).model.backbone.type == "recnext_m3"


def test_a_config_of_the_current_folder_wins(tmp_path, monkeypatch):
    (tmp_path / "configs" / "recnext").mkdir(parents=True)
    (tmp_path / M3).write_text("model = dict(type='Mine')\ndata = dict()\n")
    monkeypatch.chdir(tmp_path)
    assert load_config(M3).model.type == "Mine"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("model = dict(", "syntax"),
        ("model = undefined", "NameError"),
        ("_base_ = './nowhere.py'", "nowhere.py"),
        ("optimizer = dict(type='AdamW')", "needs `model` and `data`"),
    ],
)
def test_a_broken_config_names_itself(tmp_path, content, message):
    file = tmp_path / "broken.py"
    file.write_text(content)
    with pytest.raises(UserError, match="broken.py") as error:
        load_config(str(file))
    assert message in str(error.value)


def test_a_missing_config_suggests_similar_ones():
    with pytest.raises(UserError, match=r"did you mean configs/recnext/mask_rcnn_recnext_m3_fpn"):
        load_config("configs/recnext/mask_rcnn_recnext_m3_1x_coco.py")


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("modle.backbone.with_cp", "did you mean model"),
        ("data.sample_per_gpu", "did you mean data.samples_per_gpu"),
        ("optimiser.lr", "did you mean optimizer"),
    ],
)
def test_a_misspelt_override_is_refused(key, suggestion):
    with pytest.raises(UserError, match=suggestion):
        load_config(M3, {key: 1})


def test_overrides_that_mmdet_knows_are_accepted():
    overrides = {
        "model.backbone.with_cp": True,
        "data.train_dataloader.samples_per_gpu": 4,
        "data.train.pipeline.2.img_scale": (640, 480),
        "fp16.loss_scale": 512.0,
        "load_from": "x.pth",
    }
    cfg = load_config(M3, overrides)
    assert cfg.model.backbone.with_cp and cfg.fp16.loss_scale == 512.0
    assert cfg.data.train.pipeline[2].img_scale == (640, 480)


def test_missing_weights_say_where_they_come_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"pretrain/recnext_m3_distill_300e.pth") as error:
        check_files(load_config(M3), ("train",))
    assert "github.com/suous/RecNeXt" in str(error.value)


def test_missing_data_say_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = load_config(M3, {"model.backbone.init_cfg": None})
    with pytest.raises(
        UserError, match=r"data.train: ann_file .*instances_train2017.json"
    ) as error:
        check_files(cfg, ("train", "val"))
    assert "MMDET_DATASETS" in str(error.value)


def test_data_sets_inside_wrappers_are_checked(tmp_path):
    cfg = load_config(M3, {"model.backbone.init_cfg": None})
    inner = {**cfg.data.train, "data_root": str(tmp_path), "ann_file": "here.json"}
    cfg.data.train = dict(type="RepeatDataset", times=2, dataset=inner)
    with pytest.raises(UserError, match=str(tmp_path / "here.json")):
        check_files(cfg, ("train",))


def test_data_root_follows_the_environment(monkeypatch, coco_data):
    monkeypatch.setenv("MMDET_DATASETS", f"{coco_data}/")
    cfg = load_config(M3, {"model.backbone.init_cfg": None})
    check_files(cfg, ("train", "val", "test"))
    assert cfg.data.train.ann_file.startswith(str(coco_data))
