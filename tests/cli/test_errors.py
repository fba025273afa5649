"""Bad input: one clear message that names the thing and the way out, and a non-zero exit."""

import json
import os
import pickle
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

import models_mm
from models_mm.cli import analyze, show, test, train
from models_mm.errors import UserError

from ..drawn import data_options

ROOT = Path(__file__).resolve().parents[2]
DEMO = "configs/demo/mask_rcnn_recnext_tiny_fpn_demo.py"
M3 = "configs/recnext/mask_rcnn_recnext_m3_fpn_1x_coco.py"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """An untrained checkpoint of the demo's detector."""
    from mmcv.runner import save_checkpoint
    from mmdet.models import build_detector

    from models_mm.mmdet2.configs import load_config

    file = tmp_path_factory.mktemp("checkpoints") / "demo.pth"
    save_checkpoint(build_detector(load_config(DEMO).model), str(file))
    return file


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("tool", ["train", "check_env", "make_demo_coco", "launch"])
def test_python_without_the_packages(run_tool, tool):
    """What a user gets who has not activated the environment."""
    done = run_tool(sys.executable, "-S", ROOT / f"tools/{tool}.py", "--help", PYTHONPATH="")
    assert done.returncode == 1
    assert re.fullmatch(
        r"error: \S+ has no PyTorch: run 'make install' once, then "
        r"'source .venv/bin/activate' \(or .*\)\n",
        done.stderr,
    )


def test_checkpoint_of_another_model(coco_data, checkpoint):
    with pytest.raises(UserError, match="not a checkpoint of this MaskRCNN") as error:
        test.main([M3, str(checkpoint), "--eval", "bbox", *data_options(coco_data)])
    assert "missing: backbone.stages" in str(error.value) and str(checkpoint) in str(error.value)


def test_truncated_checkpoint(demo_data, checkpoint, tmp_path):
    cut = tmp_path / "cut.pth"
    cut.write_bytes(checkpoint.read_bytes()[:100_000])
    with pytest.raises(UserError, match=r"cut.pth cannot be read \(100,000 bytes"):
        test.main([DEMO, str(cut), "--eval", "bbox", *data_options(demo_data)])


def test_missing_checkpoint_to_test(demo_data):
    with pytest.raises(UserError, match="checkpoint not found: recnext_m3_coco.pth") as error:
        test.main([M3, "recnext_m3_coco.pth", "--eval", "bbox", *data_options(demo_data)])
    assert "github.com/suous/RecNeXt" in str(error.value)


@pytest.mark.parametrize("setting", ["load_from", "resume_from"])
def test_missing_checkpoint_to_train_from(demo_data, setting):
    with pytest.raises(UserError, match="checkpoint not found: nowhere.pth"):
        train.main([DEMO, *data_options(demo_data, f"{setting}=nowhere.pth")])


def test_unknown_metric(demo_data, checkpoint):
    with pytest.raises(UserError, match=r"--eval mask: unknown metric .*bbox, segm"):
        test.main([DEMO, str(checkpoint), "--eval", "mask", *data_options(demo_data)])


@pytest.mark.parametrize(
    "option, message",
    [
        ("claswise=True", "claswise: CocoDataset's evaluation has no such option; .* classwise?"),
        ("engine=fast", "engine fast: unknown engine for CocoDataset; known: hotcoco, pycocotools"),
        ("metric_items=mAP_5", "metric_items mAP_5: unknown metric_items .* mAP, mAP_50"),
    ],
)
def test_options_of_the_evaluation_are_checked_before_it(demo_data, checkpoint, option, message):
    """Nothing is predicted or trained first."""
    options = ["--eval", "bbox", "--eval-options", option, *data_options(demo_data)]
    with pytest.raises(UserError, match="--eval-options: " + message):
        test.main([DEMO, str(checkpoint), "--out", "results.pkl", *options])
    assert not Path("results.pkl").exists()
    with pytest.raises(UserError, match="evaluation." + message):
        train.main([DEMO, *data_options(demo_data, f"evaluation.{option}")])
    assert not list(Path().glob("work_dirs/*/*.pth"))


def test_metric_of_a_training(demo_data):
    with pytest.raises(UserError, match="evaluation.metric mask: unknown metric .* bbox, segm"):
        train.main([DEMO, *data_options(demo_data, "evaluation.metric=mask")])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("optimizer.lr=fast", "optimizer.lr must be a number, not 'fast'"),
        ("data.samples_per_gpu=0", "data.samples_per_gpu must be a whole number, 1 to 4096, not 0"),
        ("runner.max_epochs=-1", "runner.max_epochs must be None or a whole number of 1 or more"),
        ("faults.bad_image=3", "faults has no setting bad_image; did you mean faults.bad_images"),
        ("custom_hooks.0.type=Nope", "custom_hooks.0.type 'Nope' is unknown"),
        ("evaluation.iou_thrs=0.5", "evaluation.iou_thrs must be None or a list"),
        ("evaluation.save_best=mAP", "save_best mAP: this evaluation gives bbox_mAP"),
        ("data.train.pipeline.2.tpye=Resize", "data.train.pipeline.2 has no setting tpye"),
        ("model.backbone=recnext_m3", "model.backbone must be a dict of settings"),
        ("data_root=/data", "data_root is a variable of the config file"),
    ],
)
def test_settings_are_checked_before_a_training(demo_data, option, message):
    """More of them: tests/soak/wrong_lines.py."""
    with pytest.raises(UserError, match=message):
        train.main([DEMO, *data_options(demo_data, option)])
    assert not list(Path().glob("work_dirs/*/*.pth"))


@pytest.mark.parametrize("option", ["optimizer.lr", "=3", "optimizer..lr=3", "optimizer.lr="])
def test_overrides_that_are_none(option, capsys):
    with pytest.raises(SystemExit) as ended:
        train.main([DEMO, "--cfg-options", option])
    assert ended.value.code == 2 and "--cfg-options: " in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
def test_a_gpu_that_is_not_there(demo_data):
    with pytest.raises(UserError, match="--gpu-id 7: this machine has no GPU"):
        train.main([DEMO, "--gpu-id", "7", *data_options(demo_data)])


class Planted:
    """What an attacker would put into a file of results."""

    def __reduce__(self):
        return os.system, ("touch planted",)


def test_results_that_are_none(demo_data):
    """Missing, of another data set, damaged, or with code in them, which does not run."""
    Path("short.pkl").write_bytes(pickle.dumps([[]]))
    Path("cut.pkl").write_bytes(pickle.dumps([[]] * 5)[:-5])
    Path("code.pkl").write_bytes(pickle.dumps([Planted()] * 5))
    for tool in (show, analyze):
        for file, message in {
            "nowhere.pkl": "results not found: nowhere.pkl",
            "short.pkl": "short.pkl: 1 results for 5 images",
            "cut.pkl": "cut.pkl is not what tools/test.py --out writes",
            "code.pkl": r"code.pkl is not what .* it names posix.system",
        }.items():
            with pytest.raises(UserError, match=message):
                tool.main([str(ROOT / DEMO), file, *data_options(demo_data)])
    assert not Path("planted").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
def test_device_that_is_not_there(demo_data, checkpoint):
    for device in ("cuda", "cuda:7", "gpu"):
        with pytest.raises(UserError, match=f"device {device}: .*`cpu` works everywhere"):
            models_mm.Detector(DEMO, checkpoint, device)


def test_masks_of_a_box_detector(coco_data, tmp_path):
    from mmcv.runner import save_checkpoint
    from mmdet.models import build_detector

    from models_mm.mmdet2.configs import load_config

    retina = "configs/recnext/retinanet_recnext_m3_fpn_1x_coco.py"
    file = str(tmp_path / "retina.pth")
    save_checkpoint(build_detector(load_config(retina).model), file)
    with pytest.raises(UserError, match="--eval segm: RetinaNet predicts boxes only"):
        test.main([retina, file, "--eval", "bbox", "segm", *data_options(coco_data)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "instances_train2017.json is not JSON"),
        ('{"images": [], "annotations": [], "categories": []}', "has no usable images"),
        ('{"pictures": []}', "instances_train2017.json"),
    ],
)
def test_annotation_file_without_annotations(demo_data, tmp_path, content, message):
    data = shutil.copytree(demo_data, tmp_path / "data")
    (data / "annotations" / "instances_train2017.json").write_text(content)
    with pytest.raises(UserError, match=message):
        train.main([DEMO, *data_options(data, "data.train.filter_empty_gt=False")])


def test_unknown_backbone_and_keyword(coco_data, demo_data):
    unknown = ("model.backbone.type=recnext_m9", "model.backbone.init_cfg=None")
    with pytest.raises(UserError, match="model.backbone.type 'recnext_m9' is unknown; did you"):
        train.main([M3, *data_options(coco_data, *unknown)])
    with pytest.raises(UserError, match="depht"):
        train.main([DEMO, *data_options(demo_data, "model.backbone.depht=50")])


def test_data_of_other_classes(demo_data):
    with pytest.raises(UserError, match=r"none of its categories .* \(person, bicycle, car"):
        train.main([M3, *data_options(demo_data, "model.backbone.init_cfg=None")])


def test_classes_that_do_not_fit_the_heads(demo_data):
    with pytest.raises((UserError, AssertionError), match="num_classes"):
        train.main(
            [
                DEMO,
                "--no-validate",
                *data_options(demo_data, "model.roi_head.bbox_head.num_classes=7"),
            ]
        )


def test_image_missing_on_disk(demo_data, run_tool, tmp_path):
    """Found by a data worker in the middle of an epoch: no traceback, the file is named."""
    data = shutil.copytree(demo_data, tmp_path / "data")
    for image in (data / "val2017").glob("*.jpg"):
        image.unlink()
        break
    more = data_options(data, "data.workers_per_gpu=1")
    checkpoint = tmp_path / "demo.pth"
    from mmcv.runner import save_checkpoint
    from mmdet.models import build_detector

    from models_mm.mmdet2.configs import load_config

    save_checkpoint(build_detector(load_config(DEMO).model), str(checkpoint))
    done = run_tool(ROOT / "tools/test.py", DEMO, checkpoint, "--eval", "bbox", *more)
    assert done.returncode == 1
    assert re.search(r"^error: .*" + re.escape(str(image)), done.stderr, re.M)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([DEMO, "x.pth"], "nothing to do"),
        ([DEMO, "x.pth", "--eval", "bbox", "--format-only"], "exclude each other"),
        ([DEMO, "x.pth", "--out", "results.json"], "must end with .pkl"),
        ([DEMO, "x.pth", "--show"], "there is none: use --show-dir"),
        ([DEMO, "x.pth", "--evall", "bbox"], "unrecognized arguments: --evall"),
    ],
)
def test_options_that_make_no_sense(arguments, message, capsys, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(SystemExit) as ended:
        test.main(arguments)
    assert ended.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("dist_train.sh", [], "usage: .*dist_train.sh CONFIG GPUS"),
        ("dist_train.sh", [DEMO, 0], "GPUS must be a positive number of processes, not '0'"),
        ("dist_test.sh", [DEMO, "x.pth", "two"], "not 'two'"),
        ("dist_test.sh", [DEMO, 2], "usage: .*dist_test.sh CONFIG CHECKPOINT GPUS"),
        ("slurm_train.sh", [], "usage: .*PARTITION JOB_NAME CONFIG WORK_DIR"),
        ("slurm_test.sh", ["p", "j", DEMO], "usage: .*PARTITION JOB_NAME CONFIG CHECKPOINT"),
        ("tools/dist_train.sh", [], "usage: .*dist_train.sh CONFIG GPUS"),
    ],
)
def test_scripts_say_how_to_call_them(run_tool, script, arguments, message):
    done = run_tool(ROOT / script, *arguments)
    assert done.returncode == 2 and re.search(message, done.stderr)


@pytest.mark.parametrize("script", ["slurm_train.sh", "slurm_test.sh"])
def test_slurm_scripts_without_slurm(run_tool, tmp_path, script):
    (tmp_path / "bash").symlink_to(shutil.which("bash"))  # all that the search path has
    done = run_tool(ROOT / script, "partition", "job", DEMO, "work", PATH=str(tmp_path))
    assert done.returncode == 1 and "srun not found" in done.stderr


def test_a_distributed_job_says_it_once_and_fails(run_tool):
    """Both ranks find the same mistake; the user reads it once."""
    done = run_tool(ROOT / "dist_train.sh", "configs/recnext/mask_rcnn_recnext_m3.py", 2)
    assert done.returncode == 1
    assert done.stderr.count("config not found: configs/recnext/mask_rcnn_recnext_m3.py") == 1
    assert "did you mean configs/recnext/mask_rcnn_recnext_m3_fpn_1x_coco.py" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [("train", DEMO), ("test", DEMO, "x.pth", "--eval", "bbox")])
def test_torchrun_without_the_launcher_option(words, tmp_path, demo_data, monkeypatch):
    """Each process would train alone, in the same work dir."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.pth").touch()
    tool = {"train": train, "test": test}[words[0]]
    with pytest.raises(UserError, match="started 2 processes.*: give --launcher pytorch too"):
        tool.main([*words[1:], *data_options(demo_data)])
    assert not (tmp_path / "work_dirs").exists()


def test_a_pickle_does_not_run(run_tool, tmp_path):
    weights = {
        "state_dict": {"a": torch.ones(2)},
        "meta": {"at": Runs(tmp_path / "ran"), "of": Path()},
    }
    torch.save(weights, tmp_path / "bad.pth")
    script = ROOT / "tools/convert_checkpoint.py"
    done = run_tool(script, "rewrite", tmp_path / "bad.pth", tmp_path / "good.pth")
    assert done.returncode == 0, done.stderr
    assert "dropped meta.of (pathlib" in done.stdout and not (tmp_path / "ran").exists()
    assert torch.load(tmp_path / "good.pth", weights_only=True)["state_dict"]["a"].sum() == 2


class Runs:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_json_log_without_records(run_tool, tmp_path):
    log = tmp_path / "run.log.json"
    log.write_text(json.dumps({"env_info": "x"}) + "\n")
    done = run_tool(ROOT / "tools/plot_logs.py", log)
    assert done.returncode == 1 and "no record yet" in done.stderr
