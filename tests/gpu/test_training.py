"""Trainings of a tiny detector on a GPU."""

import re

import models_mm  # isort: skip
import pytest
import torch

from models_mm.layers.forms import use_forms
from tests.runs.conftest import ROOT, TINY, checkpoint, differences, options

from .conftest import needs_gpu

pytestmark = needs_gpu
FAMILIES = ["biformer_s", "dfvt_t", "kw1x_resnet50", "mpvit_tiny", "recnext_m3"]


@pytest.fixture
def train(demo_data, run_tool, tmp_path):
    """Train the tiny detector; returns checkpoint and log."""

    def call(name: str, *more: str, flags: tuple = (), command=("tools/train.py", TINY), **env):
        done = run_tool(
            *(ROOT / command[0], *command[1:], "--work-dir", tmp_path / name, "--seed", 0),
            *("--no-validate", *flags, *options(demo_data, *more)),
            **env,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return checkpoint(tmp_path / name), done.stdout + done.stderr

    return call


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_steps_in_mixed_precision(name, dtype):
    torch.manual_seed(0)
    model = models_mm.create_backbone(name).cuda().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)
    x = torch.randn(4, 3, 128, 192, device="cuda")
    losses = []
    for _ in range(12):
        with torch.autocast("cuda", dtype):
            loss = sum(out.float().square().mean() for out in model(x))
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert all(p.isfinite().all() for p in model.parameters())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("forms", [{}, {"routing_kernel": True}], ids=["plain", "kernel"])
def test_biformer_steps_without_reading_the_gpu(forms):
    model = models_mm.create_backbone("biformer_s").cuda().train()
    x = torch.randn(2, 3, 128, 192, device="cuda")

    def step():
        sum(out.mean() for out in model(x)).backward()

    with use_forms(**forms):
        step()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_the_log_says_which_kernels(train):
    _, log = train("run")
    assert re.search(r"GPU kernels: any, cudnn_benchmark False; products of float32 in \w+", log)


def test_deterministic_trainings_are_equal(train):
    first, second = (train(name, flags=("--deterministic",))[0] for name in ("one", "two"))
    assert differences(first["state_dict"], second["state_dict"], "state_dict") == []


def test_resuming_keeps_the_loss_scale(train):
    amp = "amp=float16"
    whole, _ = train("whole", amp, flags=("--deterministic",))
    train("parts", amp, "runner.max_epochs=1", flags=("--deterministic",))
    flags = ("--deterministic", "--auto-resume", "--allow-config-changes")
    parts, _ = train("parts", amp, flags=flags)
    assert parts["meta"]["fp16"]["loss_scaler"] == whole["meta"]["fp16"]["loss_scaler"]
    assert differences(whole["state_dict"], parts["state_dict"], "state_dict") == []


def test_a_loss_that_is_not_finite_ends_the_run(demo_data, run_tool, tmp_path):
    done = run_tool(
        *("tools/train.py", TINY, "--work-dir", tmp_path, "--seed", 0, "--no-validate"),
        *options(demo_data, "optimizer.lr=1e30"),
        cwd=ROOT,
    )
    assert done.returncode == 1 and "not finite" in done.stderr.splitlines()[-1]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_processes(train):
    found, _ = train("two", command=("dist_train.sh", TINY, "2"))
    assert all(v.isfinite().all() for v in found["state_dict"].values() if v.is_floating_point())
