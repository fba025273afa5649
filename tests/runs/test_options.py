"""Options of training: each in a real run of the tiny detector, or beside plain float32."""

import re
import shutil

import models_mm  # noqa: F401  isort: skip
import pytest
import torch
from mmcv import Config
from mmdet.models import build_detector

from models_mm.errors import UserError
from models_mm.mmdet2.configs import load_config
from models_mm.mmdet2.execution import AMP, dense_modules, prepare_execution, settle_precision

from .conftest import ROOT, TINY, checkpoint, differences, options

DEMO = "configs/demo/mask_rcnn_recnext_tiny_fpn_demo.py"


@pytest.fixture(scope="module")
def train(demo_data, run_tool, tmp_path_factory):
    """Train the tiny detector for two epochs with more options; returns checkpoint and log."""

    def call(*more: str, flags: tuple[str, ...] = (), **environment):
        work = tmp_path_factory.mktemp("run")
        done = run_tool(
            *(ROOT / "tools/train.py", TINY, "--work-dir", work, "--seed", 0, "--no-validate"),
            *(*flags, *options(demo_data, *more)),
            **environment,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return checkpoint(work), done.stderr

    return call


@pytest.fixture(scope="module")
def plain(train):
    return train()


def steps(run: dict) -> int:
    return int(next(iter(run["optimizer"]["state"].values()))["step"])


@pytest.mark.slow
def test_workers_that_live_draw_the_same_fresh_samples(train, plain):
    """In each epoch other ones, as new workers would: nothing in the weights tells them apart."""
    living, _ = train("data.train_dataloader.persistent_workers=True")
    assert differences(living, plain[0]) == []


def test_accumulation_takes_fewer_steps(train, plain):
    run, log = train("optimizer_config.cumulative_iters=2", flags=("--auto-scale-lr", "--verbose"))
    assert steps(run) == -(-steps(plain[0]) // 2)
    # 1 process x 1 image x 2 iterations, and the config's rate is for 16 images
    assert re.search(r"learning rate 0.001 for 16 images a step has become 0.000125 for 2", log)


@pytest.mark.slow
def test_average_of_the_weights(train, plain):
    """With the smallest of momenta the average stays where the weights began."""
    run, _ = train("ema.momentum=1e-12")
    begun, _ = train("optimizer.lr=0.0")
    average, trained = run["state_dict"], plain[0]["state_dict"]
    name = "bbox_head.retina_cls.weight"
    assert torch.allclose(average[name], begun["state_dict"][name], atol=1e-6)
    assert not torch.allclose(average[name], trained[name], atol=1e-4)
    assert torch.equal(average["ema_" + name.replace(".", "_")], trained[name])


def test_bfloat16_trains(train, plain):
    run, log = train("amp=bfloat16")
    weights, others = run["state_dict"], plain[0]["state_dict"]
    assert all(torch.isfinite(value).all() for value in weights.values())
    assert differences(weights, others) and weights.keys() == others.keys()
    name = "bbox_head.retina_cls.weight"
    assert weights[name].dtype == torch.float32
    assert torch.allclose(weights[name], others[name], atol=1e-2)
    assert "nan" not in log


def test_float16_needs_a_gpu(train, plain):
    if torch.cuda.is_available():
        pytest.skip("this is about machines without a GPU")
    run, log = train("amp=float16")
    assert "fp16 of the config needs a GPU: float32" in log
    assert differences(run, plain[0]) == []


def test_what_amp_means():
    for amp, fp16 in zip(AMP, (None, dict(loss_scale="dynamic"), None), strict=True):
        cfg = Config(dict(amp=amp, fp16=dict(loss_scale=512.0)))
        settle_precision(cfg)
        assert cfg.fp16 == fp16
    untouched = Config(dict(fp16=dict(loss_scale=512.0)))
    settle_precision(untouched)
    assert untouched.fp16 == dict(loss_scale=512.0)
    with pytest.raises(UserError, match="amp: bfloat16, float16, off, not 'half'"):
        settle_precision(Config(dict(amp="half")))


def test_bfloat16_stays_within_the_networks():
    """Convolutions compute in it; all that goes to boxes, RoIs and losses is float32."""
    torch.manual_seed(0)
    model = build_detector(load_config(DEMO).model).eval()
    image = torch.randn(2, 3, 64, 64)
    expected = model.extract_feat(image)
    seen = []
    model.neck.lateral_convs[0].conv.register_forward_hook(
        lambda module, given, out: seen.append(out.dtype)
    )
    prepare_execution(model, Config(dict(device="cpu", amp="bfloat16")))
    maps = model.extract_feat(image)
    assert seen == [torch.bfloat16] and {level.dtype for level in maps} == {torch.float32}
    for level, other in zip(maps, expected, strict=True):
        error = (level - other).norm() / other.norm()
        assert 0 < error < 0.03
    scores, deltas = model.rpn_head(maps)
    assert {value.dtype for value in (*scores, *deltas)} == {torch.float32}
    names = {type(module).__name__ for module in dense_modules(model)}
    assert names == {"RecNeXt", "FPN", "RPNHead", "Shared4Conv1FCBBoxHead", "FCNMaskHead"}


SMALL = """
from mmdet.models import BACKBONES
from torch import nn

@BACKBONES.register_module()
class Small(nn.Sequential):
    def __init__(self, init_cfg=None):
        super().__init__(nn.Conv2d(3, 64, 3, 32, 1), nn.BatchNorm2d(64), nn.ReLU())

    def forward(self, x):
        x = super().forward(x)
        return (x,)
"""
CONFIG = """
_base_ = "{TINY}"
custom_imports = dict(imports=["models_mm", "small"], allow_failed_imports=False)
model = dict(
    backbone=dict(_delete_=True, type="Small"),
    neck=dict(in_channels=[64]),
)
optimizer = dict(_delete_=True, type="SGD", lr=0.01)
runner = dict(max_epochs=1)
"""


@pytest.fixture
def train_small(demo_data, run_tool, tmp_path):
    """Train a network that compiles quickly."""
    (tmp_path / "small.py").write_text(SMALL)
    (tmp_path / "config.py").write_text(CONFIG.format(TINY=TINY))

    def call(name: str, *more: str, **environment):
        return run_tool(
            *(ROOT / "tools/train.py", tmp_path / "config.py", "--work-dir", tmp_path / name),
            *("--seed", 0, "--no-validate", *options(demo_data, *more)),
            PYTHONPATH=str(tmp_path),
            **environment,
        )

    return call


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile on CPUs needs a compiler")
def test_compiled_training(train_small, tmp_path):
    for name, more in (("compiled", ["compile=True"]), ("plain", [])):
        done = train_small(name, *more)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    compiled, plain = (checkpoint(tmp_path / n)["state_dict"] for n in ("compiled", "plain"))
    assert compiled.keys() == plain.keys() and differences(compiled, plain)
    for name, value in compiled.items():
        torch.testing.assert_close(value, plain[name], rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.slow
def test_compiling_without_a_compiler(train_small, tmp_path):
    environment = dict(CXX="no-such-compiler", TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"))
    done = train_small("failed", "compile=True", **environment)
    assert done.returncode == 1
    (line,) = re.findall("^error: .*", done.stderr, re.M)
    assert "torch.compile failed" in line and line.endswith("leave `compile` out")


def test_weights_and_biases_offline(train, tmp_path):
    """mmcv's hook, without an account."""
    pytest.importorskip("wandb")
    train(
        "log_config.hooks.0.type=WandbLoggerHook",
        "log_config.hooks.0.init_kwargs.project=shapes",
        WANDB_MODE="offline",
        WANDB_DIR=str(tmp_path),
    )
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
