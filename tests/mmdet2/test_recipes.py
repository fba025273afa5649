"""What a training on own data decides, for models, sizes and batches; the config it writes."""

import models_mm  # noqa: F401  isort: skip
from pathlib import Path

import pytest
from mmdet.datasets import build_dataloader, build_dataset
from mmdet.models import build_detector

from models_mm.config_files import config_files, known_model, known_variant, variants
from models_mm.data.conversion import write_annotations
from models_mm.data.formats.labels import DataSet, LabelledImage, Part, labelled_object
from models_mm.data.sources import load_data
from models_mm.data.split import split
from models_mm.decisions import Decisions
from models_mm.errors import UserError
from models_mm.mmdet2.config_text import GROUPS, config_text, source
from models_mm.mmdet2.configs import load_config
from models_mm.mmdet2.overrides import TOP_LEVEL
from models_mm.mmdet2.recipes import Choices, decide
from models_mm.mmdet2.settings import check_settings

from ..backbones.golden import LARGE, VARIANTS

CLASSES = ("cat", "Dog's", "zebra")
LARGE_TYPES = {VARIANTS[name]["type"] for name in LARGE}
FEW = ("recnext_m3", "biformer_s", "mpvit_tiny", "dfvt_t", "kw1x_mobilenetv2", "recnext_tiny")


def labels(train: int = 20, val: int = 4, masks: bool = True) -> DataSet:
    """Labels without images: every third image stands, every fifth has no object."""

    def image(number: int) -> LabelledImage:
        box = [1, 2, 30, 40]
        mask = [[1, 2, 31, 2, 31, 42, 1, 42]] if masks else None
        things = [labelled_object(name, box, mask) for name in CLASSES] if number % 5 else []
        size = (64, 48) if number % 3 else (48, 64)
        return LabelledImage(f"{number:04}.jpg", *size, things)

    parts = {
        name: Part(Path("photos"), Path("labels"), [image(i) for i in range(number)])
        for name, number in (("train", train), ("val", val))
    }
    return DataSet(Path("photos"), "COCO", CLASSES, parts)


def decided(model: str, data: DataSet | None = None, **choices):
    """The config of a model for some data, and the decisions."""
    data = data or labels()
    name = known_model(model, masks=data.masks == "all")
    cfg = load_config(str(config_files()[name]))
    choices = {"out": Path("/runs/photos"), "start": "scratch", **choices}
    said = Decisions()
    decide(cfg, data, Choices(**choices), name, said)
    return cfg, said


def line(said: Decisions, setting: str, beginning: str) -> str:
    """The one reason of a setting that begins so."""
    (found,) = [reason for reason in said.get(setting, []) if reason.startswith(beginning)]
    return found


def written(cfg, said: Decisions, tmp_path: Path):
    """The config after it was written and read again."""
    cfg.work_dir = str(tmp_path)
    (tmp_path / "config.py").write_text(config_text(cfg, said, ["title"]))
    return load_config(str(tmp_path / "config.py"))


HOSTILE = ["zip\nopen('x','w')#", "{{ fileDirname }}", "{{{_base_.x}}", "o'br\"ien", "a\\nb"]


@pytest.mark.parametrize("text", HOSTILE)
def test_names_are_only_names_in_the_config(text, tmp_path):
    cfg, said = decided("recnext_tiny", out=tmp_path)
    for data in (cfg.data.train, cfg.data.val, cfg.data.test):
        data.classes, data.img_prefix = (text, "b"), text
    said.say("data", text)
    (tmp_path / "config.py").write_text(config_text(cfg, said, [text]))
    read = load_config(str(tmp_path / "config.py"))
    read.dump(str(tmp_path / "dumped.py"))
    for found in (read, load_config(str(tmp_path / "dumped.py"))):
        assert found.data.val.classes == (text, "b") and found.data.val.img_prefix == text
    assert not (tmp_path / "x").exists() and not Path("x").exists()


def test_every_setting_of_a_config_is_written():
    written_ones = {name for names in GROUPS.values() for name in names}
    assert set(TOP_LEVEL) - {"total_epochs"} <= written_ones  # runner.max_epochs stands for it


def test_variables_of_the_config_have_one_value(tmp_path):
    cfg, said = decided("recnext_tiny", out=tmp_path)
    cfg.data.val.classes = ("b",)
    read = written(cfg, said, tmp_path)
    assert read.data.val.classes == ("b",) and read.data.train.classes == CLASSES


@pytest.mark.parametrize("name", config_files())
def test_the_config_of_every_model_is_read_as_it_was_decided(name, tmp_path):
    cfg = load_config(str(config_files()[name]))
    data = labels()
    said = Decisions()
    decide(cfg, data, Choices(out=tmp_path, start="scratch", size=(320, 256)), name, said)
    check_settings(cfg, ("train", "val", "test"), training=True)
    read = written(cfg, said, tmp_path)
    check_settings(read, ("train", "val", "test"), training=True)
    settings = {key: value for key, value in cfg._cfg_dict.items() if value is not None}
    variables = {"train_pipeline", "val_pipeline", "test_pipeline", "classes"}
    needed = {"load_from", "resume_from"}
    assert read._cfg_dict.keys() - variables - needed <= settings.keys()
    for key in read._cfg_dict.keys() - variables - needed:
        assert read[key] == cfg[key], key
    text = (tmp_path / "config.py").read_text()
    assert max(map(len, text.splitlines())) <= 100 and "_base_ =" not in text


@pytest.mark.parametrize(
    "name",
    [
        name
        if any(f"_rcnn_{few}_fpn" in name and name.startswith("mask") for few in FEW)
        else pytest.param(name, marks=pytest.mark.slow)
        for name in config_files()
        if not any(f"_{large}_fpn" in name for large in LARGE_TYPES) or name.startswith("mask")
    ],
)
def test_the_written_config_builds(name, tmp_path):
    cfg = load_config(str(config_files()[name]))
    said = Decisions()
    decide(cfg, labels(), Choices(tmp_path, "scratch"), name, said)
    read = written(cfg, said, tmp_path)
    detector = build_detector(read.model)
    two_stages = hasattr(detector, "roi_head")
    heads = [detector.roi_head.bbox_head] if two_stages else [detector.bbox_head]
    if two_stages and detector.with_mask:
        heads.append(detector.roi_head.mask_head)
    for head in heads:
        for one in head if hasattr(head, "__len__") else [head]:
            assert one.num_classes == 3
    frozen = [name for name, p in detector.backbone.named_parameters() if not p.requires_grad]
    unused = ("classifier.", "fc.")  # in the published files, and not used by detectors
    if not two_stages:  # RetinaNet takes no map of the first stage
        unused += ("norm0.", "extra_norms.0.", "conv1x1layers.0.")
    assert not [name for name in frozen if not name.startswith(unused)]


@pytest.mark.parametrize("model", ["cascade_mask_rcnn_recnext_m3", "retinanet_dfvt_t"])
def test_classes_are_everywhere(model):
    cfg, said = decided(model)
    roi = cfg.model.get("roi_head")
    heads = [*roi.bbox_head, roi.mask_head] if roi else [cfg.model.bbox_head]
    assert {head.num_classes for head in heads} == {3}
    assert cfg.data.train.classes == cfg.data.val.classes == cfg.data.test.classes == CLASSES
    assert line(said, "model", "num_classes=3").endswith(": the classes of the data")
    assert labels().facts()[1] == "3 classes: cat, Dog's, zebra"


@pytest.mark.parametrize(("batch", "processes"), [(2, 1), (2, 2), (3, 1), (16, 2)])
def test_steps_of_an_epoch_are_those_of_the_loader(demo_data, tmp_path, batch, processes):
    data = load_data(demo_data)
    choices = dict(out=tmp_path, batch=batch, processes=processes, epochs=3)
    cfg, said = decided("recnext_tiny", data, **choices)
    write_annotations(data, tmp_path)
    loader = build_dataloader(
        build_dataset(cfg.data.train),
        batch,
        0,
        1,
        dist=False,
        shuffle=False,
        persistent_workers=False,
    )
    steps = int(line(said, "runner", "3 epochs of ").split()[3])
    if processes == 1:
        assert len(loader) == steps
    else:  # each group is filled up to whole steps of all processes
        assert len(loader) / processes <= steps <= -(-len(loader) // processes) + 1


@pytest.mark.parametrize("images", [20, 100, 10_000])
@pytest.mark.parametrize("epochs", [None, 1, 2, 5, 100])
@pytest.mark.parametrize("model", ["recnext_m3", "mpvit_tiny", "recnext_tiny"])
def test_the_schedule_fits_the_length(model, epochs, images):
    """Milestones of 12 epochs, of 90 000 iterations, and a cosine."""
    cfg, said = decided(model, labels(images), epochs=epochs)
    length, runner = cfg.runner.max_epochs, line(said, "runner", f"{cfg.runner.max_epochs} epochs")
    steps = int(runner.split()[3])
    assert cfg.runner == dict(type="EpochBasedRunner", max_epochs=epochs or length)
    assert epochs or length == min(max(12, -(-1500 // steps)), 300)
    assert 1 <= cfg.lr_config.warmup_iters <= max(1, min(steps, length * steps // 10))
    if "step" in cfg.lr_config:
        shares = (60000 / 90000, 80000 / 90000) if model == "mpvit_tiny" else (8 / 12, 11 / 12)
        expected = sorted({max(1, round(share * length)) for share in shares} - {length})
        assert cfg.lr_config.step == [s for s in expected if s < length] or [length]
        assert "by_epoch" not in cfg.lr_config
    assert length % cfg.evaluation.interval == 0  # the last one is evaluated
    assert length < 40 or length // cfg.evaluation.interval >= 20
    assert cfg.checkpoint_config.interval == cfg.evaluation.interval
    assert cfg.log_config.interval <= steps
    assert ("ema" in cfg) == (length * steps >= 1000)


@pytest.mark.parametrize(
    ("model", "rate", "base"), [("recnext_m3", 2e-4, 16), ("recnext_tiny", 2e-3, 4)]
)
@pytest.mark.parametrize(("batch", "processes"), [(2, 1), (4, 8)])
def test_the_learning_rate_follows_the_batch(model, rate, base, batch, processes):
    cfg, said = decided(model, batch=batch, processes=processes)
    assert cfg.optimizer.lr == rate
    assert cfg.auto_scale_lr == dict(enable=True, base_batch_size=base)
    scaled = f"{rate * batch * processes / base:g}"
    assert line(said, "auto_scale_lr", "the rate").endswith(f"it becomes {scaled}")
    chosen, _ = decided(model, batch=batch, lr=0.5)
    assert chosen.optimizer.lr == 0.5 and not chosen.auto_scale_lr.enable


@pytest.mark.parametrize("size", [(640, 640), (1333, 800), (320, 256)])
def test_the_size_is_in_all_pipelines(size):
    """One scale, several of them, and crops between."""
    cfg, _ = decided("recnext_m3", size=size)
    assert cfg.data.train.pipeline[2].img_scale == size
    assert cfg.data.val.pipeline[1].img_scale == cfg.data.test.pipeline[1].img_scale == size
    for model in ("dfvt_t", "mask_rcnn_mpvit_tiny_fpn_ms_3x"):
        cfg, _ = decided(model, size=size)
        several = cfg.data.train.pipeline[3].policies
        long, short = size[0] / 1333, size[1] / 800
        for policy in several:
            for number, scale in enumerate(policy[-1].img_scale):
                assert tuple(scale) == (round((480 + 32 * number) * short), size[0])
        resize, crop, _ = several[1]
        cap = 4200 if "mpvit" in model else 1333
        assert tuple(resize.img_scale[0]) == (round(400 * short), round(cap * long))
        assert tuple(crop.crop_size) == (round(384 * short), round(600 * short))
        assert cfg.data.test.pipeline[1].img_scale == size


def test_what_is_frozen(tmp_path):
    """Early layers of pretrained backbones for few images; nothing that has random weights."""
    file = tmp_path / "weights.pth"
    file.touch()
    small, large = labels(20), labels(1200)
    cfg, said = decided("recnext_m3", small, start=str(file))
    assert (cfg.model.backbone.frozen_stages, cfg.model.backbone.norm_eval) == (1, True)
    assert cfg.load_from == str(file) and cfg.model.backbone.init_cfg is None
    assert "m3_distill_300e.pth, which it overwrites, is not read" in line(said, "load_from", "the")
    cfg, _ = decided("recnext_m3", large, start=str(file), batch=2, processes=8)
    assert "frozen_stages" not in cfg.model.backbone and "norm_eval" not in cfg.model.backbone
    cfg, _ = decided("recnext_m3", small, start=str(file), freeze=3)
    assert cfg.model.backbone.frozen_stages == 3
    for model in ("kw1x_resnet50", "resnet50", "mobilenetv2", "biformer_s"):  # frozen in the recipe
        cfg, _ = decided(model, small)
        assert cfg.model.backbone.get("frozen_stages", -1) == -1
        assert cfg.model.backbone.norm_eval is False


def test_the_recipes_pretrained_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="not found: pretrain/recnext_m3_dist(.|\n)*--from scratch"):
        decided("recnext_m3", start=None)
    (tmp_path / "pretrain").mkdir()
    file = tmp_path / "pretrain/recnext_m3_distill_300e.pth"
    file.touch()
    cfg, _ = decided("recnext_m3", start=None)
    assert cfg.model.backbone.init_cfg.checkpoint == str(file)  # from any folder
    with pytest.raises(UserError, match="not found: coco.pth"):
        decided("recnext_m3", start="coco.pth")


def test_boxes_need_a_detector_of_boxes():
    boxes = labels(masks=False)
    assert decided("recnext_m3", boxes)[0].model.type == "FasterRCNN"
    assert decided("recnext_m3")[0].model.type == "MaskRCNN"
    assert decided("faster_rcnn_recnext_m3")[0].evaluation.metric == "bbox"
    for model in ("mask_rcnn_dfvt_t", "cascade_mask_rcnn_dfvt_t"):
        message = f"{model} learns masks, and the data have boxes only: train faster_rcnn_dfvt_t"
        with pytest.raises(UserError, match=message):
            decided(model, boxes)
    del boxes  # some of the objects
    mixed = labels()
    del mixed.parts["val"].images[1].objects[0]["segmentation"]
    with pytest.raises(UserError, match="masks for some of the objects only: train faster"):
        decided("mask_rcnn_recnext_m3", mixed)


def test_the_split_is_seeded_and_listed(demo_data, tmp_path):
    data = load_data(demo_data / "annotations/instances_train2017.json")
    parts = split(data, 0.2, seed=3)
    cfg, _ = decided("recnext_tiny", parts, out=tmp_path)
    assert any("seed 3, stratified by class" in fact for fact in parts.facts())
    write_annotations(parts, tmp_path)
    listed = (tmp_path / "val.txt").read_text().split()
    assert listed == [image.name for image in split(data, 0.2, seed=3).parts["val"].images]
    assert len(build_dataset(cfg.data.val, dict(test_mode=True))) == len(listed)


def test_early_stopping_is_asked_for():
    assert "early_stopping" not in decided("recnext_m3")[0]
    cfg, _ = decided("recnext_m3", patience=7)
    stopping = dict(patience=7, monitor="bbox_mAP", min_delta=0.0, mode="max")
    assert cfg.early_stopping == stopping


def test_names_of_models():
    assert set(variants()) >= {"recnext_m3", "kw1x_resnet50", "recnext_tiny", "mpvit_tiny"}
    for name in config_files():
        assert known_model(name, True) == name
    for text, name in {
        "recnext_m3": "mask_rcnn_recnext_m3_fpn_1x_coco",
        "faster_rcnn_dfvt_t": "faster_rcnn_dfvt_t_fpn_1x_coco",
        "faster_rcnn_dfvt_tiny": "faster_rcnn_dfvt_t_fpn_1x_coco",
        "mask_rcnn_mpvit_t": "mask_rcnn_mpvit_tiny_fpn_1x_coco",
        "mask_rcnn_mpvit_tiny_fpn_ms": "mask_rcnn_mpvit_tiny_fpn_ms_3x_coco",
        "mask_rcnn_recnext_tiny": "mask_rcnn_recnext_tiny_fpn_demo",
    }.items():
        assert known_model(text, masks=True) == name
    assert known_model("biformer_small", False) == "faster_rcnn_biformer_s_fpn_1x_coco"
    for text, message in {
        "recnxt_m3": "no model 'recnxt_m3'; the nearest: recnext_m3",
        "mask_rcnn_recnext": "is the beginning of 7 models: mask_rcnn_recnext_",
        "x": "no model 'x'; see `models_mm zoo list --all`",
    }.items():
        with pytest.raises(UserError, match=message) as error:
            known_model(text, masks=True)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no backbone 'resnet5'; the nearest: resnet50"):
        known_variant("resnet5")


@pytest.mark.parametrize(
    "value",
    [
        *(1e-6, -1, None, True, (1,), [], (), {}, {"a b": 1, "class": (2, [3])}, 'a"b', "a\\n'é"),
        dict(a=[dict(type="X" * 30, b=(1.5, 2))] * 5, c={"norm.weight": dict(decay_mult=0.0)}),
    ],
)
def test_source_code_is_the_value(value):
    assert eval(source(value, used=10)) == value  # of this file
