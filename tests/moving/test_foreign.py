"""What other projects' configs rely on: bases, names of the apex years, rules for ConvNeXt."""

import models_mm  # isort: skip  # noqa: F401  (before mmdet, which needs it)

import copy
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from mmdet.models import build_backbone, build_detector

from models_mm import messages
from models_mm.cli import test, train
from models_mm.config_files import find_config
from models_mm.errors import UserError
from models_mm.mmdet2 import testing
from models_mm.mmdet2.configs import load_config
from models_mm.mmdet2.optimization import optimizer_of, step_settings
from models_mm.mmdet2.other_projects import settle_pretrained, translate

from ..runs.conftest import TINY, options
from .projects import APEX, PROJECTS

# --- where configs and their bases lie


def test_a_project_is_used_from_where_it_lies(tmp_path, monkeypatch):
    """With its own bases, by a relative path, and without custom_imports."""
    file = PROJECTS["recnext"](tmp_path)["recnext_m3"]
    runtime = tmp_path / "configs/_base_/default_runtime.py"
    runtime.write_text(runtime.read_text() + "log_level = 'ERROR'\n")
    monkeypatch.chdir(tmp_path)
    cfg = load_config(str(file.relative_to(tmp_path)))
    assert cfg.log_level == "ERROR" and "custom_imports" not in cfg
    assert cfg.data.train.ann_file == "data/coco/annotations/instances_train2017.json"


def test_a_config_that_is_a_link_has_the_bases_beside_the_link(tmp_path):
    """And its name: that of the default work dir."""
    file = PROJECTS["recnext"](tmp_path)["recnext_m3"]
    (tmp_path / "stored").mkdir()
    file.symlink_to(file.rename(tmp_path / "stored/1.py"))
    runtime = tmp_path / "configs/_base_/default_runtime.py"
    runtime.write_text(runtime.read_text() + "log_level = 'ERROR'\n")
    assert load_config(str(file)).log_level == "ERROR"
    assert find_config(str(file)) == file


def test_bases_that_are_not_there_are_mmdet_s(tmp_path, capsys):
    """KernelWarehouse's overlay leaves them to its reader."""
    messages.say_once.cache_clear()
    file = PROJECTS["kernelwarehouse"](tmp_path)["kw1x_resnet50"]
    whole = load_config(str(file))
    shutil.rmtree(tmp_path / "configs/_base_")
    cfg = load_config(str(file))
    for key in ("rpn_head", "roi_head", "train_cfg", "test_cfg", "neck"):
        assert cfg.model[key] == whole.model[key]
    assert cfg.data == whole.data and cfg.optimizer == whole.optimizer
    said = capsys.readouterr().err
    assert f"{tmp_path}/configs/_base_/default_runtime.py does not exist; taking /" in said
    assert len(said.splitlines()) == 4
    cfg.model.pretrained = None
    build_detector(cfg.model)


def test_a_detector_s_config_as_base_is_mmdet_s(tmp_path):
    file = tmp_path / "configs/mine/mine.py"
    file.parent.mkdir(parents=True)
    file.write_text("_base_ = '../faster_rcnn/faster_rcnn_r50_fpn_1x_coco.py'\n")
    assert load_config(str(file)).model.type == "FasterRCNN"


def test_a_base_that_nobody_has_is_named(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("_base_ = '../_base_/models/nowhere.py'\n")
    with pytest.raises(UserError, match="nowhere.py"):
        load_config(str(file))


def test_a_path_of_theirs_means_our_config_of_that_name(tmp_path, monkeypatch, capsys):
    messages.say_once.cache_clear()
    monkeypatch.chdir(tmp_path)
    name = "mask_rcnn_recnext_m3_fpn_1x_coco.py"
    for _ in range(2):  # said once
        assert load_config(f"configs/{name}").model.backbone.type == "recnext_m3"
    said = capsys.readouterr().err
    assert said == f"config: configs/{name} does not exist; taking configs/recnext/{name}\n"


# --- the apex years


def apex_config(tmp_path: Path, **changes) -> str:
    """The tiny detector with runner and hook of Swin's detection."""
    hook = {"_delete_": True, **APEX["optimizer_config"], **changes}
    settings = {**APEX, "optimizer_config": hook}
    settings["runner"] = dict(type="EpochBasedRunnerAmp", max_epochs=1)
    lines = [f"_base_ = {TINY!r}"] + [f"{key} = {value!r}" for key, value in settings.items()]
    (tmp_path / "apex.py").write_text("\n".join(lines))
    return str(tmp_path / "apex.py")


def test_the_apex_runner_and_hook_train(tmp_path, demo_data):
    """On a CPU in float32, with one warning; two iterations make a step."""
    config = apex_config(tmp_path, update_interval=2, grad_clip=dict(max_norm=1.0))
    more = options(demo_data, "data.workers_per_gpu=0")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        train.main([config, "--work-dir", str(tmp_path / "run"), "--no-validate", *more])
    assert sum("fp16 of the config needs a GPU" in str(w.message) for w in said) == 1
    found = torch.load(tmp_path / "run/latest.pth", weights_only=True)
    assert found["meta"]["iter"] == 8
    assert {int(state["step"]) for state in found["optimizer"]["state"].values()} == {4}


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("interval", [1, 4])
def test_what_the_apex_hook_becomes(tmp_path, half, interval):
    clip = dict(max_norm=0.5, norm_type=2)
    config = apex_config(tmp_path, update_interval=interval, use_fp16=half, grad_clip=clip)
    cfg = load_config(config)
    assert cfg.runner.type == "EpochBasedRunner"
    assert cfg.get("fp16") == (dict(loss_scale="dynamic") if half else None)
    step = step_settings(cfg)
    assert step.grad_clip == clip
    assert step.loss_scale == ("dynamic" if half else None)
    assert step.cumulative_iters == interval
    assert load_config(config, {"optimizer_config.use_fp16": False}).get("fp16") is None


def test_what_the_apex_hook_never_had_is_refused(tmp_path):
    with pytest.raises(UserError, match="DistOptimizerHook has no updat_interval"):
        load_config(apex_config(tmp_path, updat_interval=2))


def test_other_configs_are_left_alone():
    cfg = load_config(TINY)
    before = copy.deepcopy(cfg._cfg_dict)
    translate(cfg)
    settle_pretrained(cfg.model)
    assert cfg._cfg_dict == before


# --- fp16 = dict()


def test_an_empty_fp16_is_on(tmp_path, demo_data, monkeypatch):
    """Trained on a CPU in float32; tested in half precision where the device has it."""
    config = tmp_path / "half.py"
    config.write_text(f"_base_ = {TINY!r}\nfp16 = dict()\n")
    more = options(demo_data, "data.workers_per_gpu=0", "runner.max_epochs=1")
    work = tmp_path / "run"
    train.main([str(config), "--work-dir", str(work), "--no-validate", *more])
    cfg = load_config(str(config))
    assert step_settings(cfg).fixed_scale == 512.0
    cfg.device = "cpu"
    model = testing.load_model(cfg, str(work / "latest.pth"), fuse=False)
    assert model.fp16_enabled and model.bbox_head.fp16_enabled


# --- --show


def test_several_processes_go_on_without_pictures(capsys):
    command = ["config.py", "checkpoint.pth", "--launcher", "pytorch"]
    args = test.parse_args([*command, "--eval", "bbox", "--show", "--show-dir", "pictures"])
    assert not args.show and args.show_dir is None
    assert "no pictures: --show" in capsys.readouterr().err
    with pytest.raises(SystemExit):  # nothing would be left to do
        test.parse_args([*command, "--show"])


# --- rates that decay by layers

RATES = {  # of names' beginnings, 0.95 ** (7 - id)
    "backbone.downsample_layers.0.": 0.95**7,
    "backbone.stages.0.2.": 0.95**6,
    "backbone.downsample_layers.1.": 0.95**5,
    "backbone.stages.1.0.": 0.95**5,
    "backbone.downsample_layers.2.": 0.95**4,
    "backbone.stages.2.2.": 0.95**4,
    "backbone.stages.2.3.": 0.95**3,
    "backbone.stages.2.8.": 0.95**2,
    "backbone.downsample_layers.3.": 0.95,
    "backbone.stages.3.1.": 0.95,
    "backbone.norm2.": 1.0,
    "backbone.warehouse_manager.": 1.0,
    "neck.": 1.0,
    "roi_head.": 1.0,
}


@pytest.mark.parametrize("kind", ["ConvNeXt", "KW_ConvNeXt", "convnext_t", "kw1x_convnext_t"])
def test_layer_wise_decay_acts_on_our_names(kind, tmp_path):
    shape = "kw1x_convnext_t" if kind.lower().startswith("kw") else "convnext_t"
    cfg = load_config(str(PROJECTS["kernelwarehouse"](tmp_path)[shape]))
    if kind == kind.lower():  # our names for the variants
        drop = ("depths", "dims", "in_chans")
        for key in drop:
            del cfg.model.backbone[key]
    cfg.model.backbone.type = kind
    cfg.model.pretrained = None
    with torch.device("meta"):
        model = build_detector(cfg.model)
    names = {parameter: name for name, parameter in model.named_parameters()}
    seen = set()
    for group in optimizer_of(model, cfg.optimizer).param_groups:
        for parameter in group["params"]:
            name = names.pop(parameter)
            decayed = parameter.dim() > 1 and not name.endswith(".bias")
            assert group["weight_decay"] == (0.05 if decayed else 0), name
            for start, factor in RATES.items():
                if name.startswith(start):
                    seen.add(start)
                    assert group["lr"] == pytest.approx(1e-4 * factor), name
    assert not [name for parameter, name in names.items() if parameter.requires_grad]
    assert seen == set(RATES) - (set() if "kw" in shape else {"backbone.warehouse_manager."})


def test_layer_wise_decay_of_other_backbones_is_refused(tmp_path):
    files = PROJECTS["kernelwarehouse"](tmp_path)
    cfg = load_config(str(files["mobilenetv2"]))
    cfg.model.pretrained = None
    rules = load_config(str(files["convnext_t"])).optimizer
    with pytest.raises(UserError, match="knows the layers of ConvNeXt, and none of MobileNetV2"):
        optimizer_of(build_detector(cfg.model), rules)


# --- MobileNetV2


def test_the_baseline_s_keywords_select_its_outputs():
    image = torch.rand(1, 3, 64, 96)
    plain = build_backbone(dict(type="MobileNetV2", frozen_stages=2, norm_eval=True))
    theirs = build_backbone(
        dict(type="MobileNetV2", width_mult=1.0, out_indices=(1, 2, 3, 4), frozen_stages=1)
    )
    theirs.load_state_dict(plain.state_dict())
    plain.eval()  # mmdet's returns nothing
    theirs.eval()
    for mine, other in zip(theirs(image), plain(image), strict=True):
        assert torch.equal(mine, other)
    frozen = [name for name, p in theirs.named_parameters() if not p.requires_grad]
    assert frozen == [name for name, p in plain.named_parameters() if not p.requires_grad]
    assert {name.split(".")[0] for name in frozen} == {"conv1", "layer1", "layer2"}


@pytest.mark.parametrize(
    "change", [dict(width_mult=0.5), dict(out_indices=(5,)), dict(frozen_stages=4)]
)
def test_a_baseline_that_there_is_not_is_refused(change):
    with pytest.raises(ValueError, match="width_mult"):
        build_backbone({**dict(type="MobileNetV2", width_mult=1.0), **change})


def test_inherited_keywords_are_named_once(caplog):
    build_backbone(
        dict(type="KW_ResNet", depth=50, num_stages=4, style="pytorch", norm_cfg=dict(type="BN"))
    )
    (record,) = [r for r in caplog.records if "inherits from a ResNet" in r.message]
    assert "num_stages=4, style='pytorch', norm_cfg=" in record.message
    assert "depth" not in record.message
