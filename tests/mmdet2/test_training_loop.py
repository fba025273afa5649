"""One iteration: its steps are those of mmcv's hooks, and users' hooks come between them."""

import models_mm  # noqa: F401  isort: skip
import copy
import logging
import math
from pathlib import Path

import pytest
import torch
from mmcv import Config
from mmcv.runner import (
    HOOKS,
    Fp16OptimizerHook,
    GradientCumulativeFp16OptimizerHook,
    GradientCumulativeOptimizerHook,
    Hook,
    OptimizerHook,
)
from mmdet.models import RetinaHead
from torch import nn

from models_mm.cli import train as cli
from models_mm.mmdet2.optimization import StepSettings, step_settings
from models_mm.mmdet2.training_loop import EpochLoop

from ..runs.conftest import TINY, options

ITERATIONS = 11
CLIP = dict(max_norm=0.5)


class Net(nn.Sequential):
    """A network with the method that mmcv's runners ask for."""

    def __init__(self):
        super().__init__(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))

    def train_step(self, data, optimizer):
        raise NotImplementedError


def train(take_step, overflow: bool) -> tuple[dict, dict, dict, list]:
    """Train for some iterations.

    Args:
        take_step: what does backward and step, given the runner.
        overflow: one iteration has a loss that is too large, as it happens in float16.

    Returns:
        Weights, ``meta``, the log of the gradients' norm, and the gradients that later hooks see.
    """
    torch.manual_seed(0)
    model = Net()
    loop = EpochLoop(
        step=None,
        checkpoints=None,
        bad_images=None,
        loss_check=None,
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        logger=logging.getLogger("test"),
        meta={},
        max_epochs=1,
    )
    loop._max_iters = ITERATIONS
    seen = []
    for loop._iter in range(ITERATIONS):
        factor = math.inf if overflow and loop.iter == 4 else 1.0
        loss = model(torch.rand(2, 4)).square().mean() * factor
        loop.outputs = dict(loss=loss, num_samples=2)
        take_step(loop)
        seen.append([copy.deepcopy(p.grad) for p in model.parameters()])
    return model.state_dict(), loop.meta, dict(loop.log_buffer.val_history), seen


@pytest.mark.parametrize("scale", [None, "dynamic", 512.0, dict(init_scale=64.0)])
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("clip", [None, CLIP])
def test_steps_are_those_of_mmcv_s_hooks(every, scale, clip):
    """Weights, gradients, their norms and the loss scale, bit for bit; the last step has fewer
    iterations. torch's scaler works on CPUs too."""
    kinds = {
        (1, False): OptimizerHook,
        (3, False): GradientCumulativeOptimizerHook,
        (1, True): Fp16OptimizerHook,
        (3, True): GradientCumulativeFp16OptimizerHook,
    }
    more = dict(cumulative_iters=every) if every > 1 else {}
    more |= dict(loss_scale=scale) if scale else {}
    hook = kinds[every, scale is not None](grad_clip=clip, **more)
    step = StepSettings(grad_clip=clip, cumulative_iters=every, loss_scale=scale)
    if scale:
        start = {"init_scale": scale} if isinstance(scale, float) else {}
        start = scale if isinstance(scale, dict) else start
        hook.loss_scaler = torch.amp.GradScaler("cpu", **start)
        step.scaler = torch.amp.GradScaler("cpu", **start)
    theirs = train(hook.after_train_iter, overflow=bool(scale))

    def take_step(loop):
        loop.backward_and_step(step)
        step.keep_scale(loop)

    ours = train(take_step, overflow=bool(scale))
    assert ours[0].keys() == theirs[0].keys()
    assert all(torch.equal(value, theirs[0][name]) for name, value in ours[0].items())
    assert ours[1] == theirs[1] and ("fp16" in ours[1]) == bool(scale)
    assert str(ours[2]) == str(theirs[2]) and bool(ours[2]) == bool(clip)  # NaN is no NaN's equal
    for mine, other in zip(ours[3], theirs[3], strict=True):
        for gradient, expected in zip(mine, other, strict=True):
            torch.testing.assert_close(gradient, expected, rtol=0, atol=0, equal_nan=True)


def test_settings_of_a_step():
    def settings(**cfg):
        return step_settings(Config(dict(optimizer_config=dict(grad_clip=None)) | cfg))

    assert settings().loss_scale is None and settings(fp16={}).fixed_scale == 512.0
    assert settings(optimizer_config=dict(type="OptimizerHook")) is None


NAME = "bbox_head.retina_cls.weight"
SEEN: dict[str, list[tuple]] = {}  # by stage: what the hooks of each priority have found


@HOOKS.register_module()
class WitnessHook(Hook):
    """Writes down in the second iteration, and after the epoch, what has happened before it."""

    def __init__(self, place: str | int):
        self.place = place

    def before_train_iter(self, runner):
        self.weights, self.average = self.states(runner)

    def after_train_iter(self, runner):
        weights, average = self.states(runner)
        stepped, averaged = not weights.equal(self.weights), not average.equal(self.average)
        written = Path(runner.work_dir, f"interim_{runner.iter + 1}.pth").exists()
        WitnessHook.last_average = average  # at last by the hook of the lowest priority
        if runner.iter == 1:
            SEEN.setdefault("iteration", []).append((self.place, stepped, averaged, written))

    def after_train_epoch(self, runner):
        swapped = self.states(runner)[0].equal(self.last_average)
        written = Path(runner.work_dir, "epoch_1.pth").exists()
        evaluated = "bbox_mAP" in runner.log_buffer.output
        SEEN.setdefault("epoch", []).append((self.place, swapped, written, evaluated))

    def states(self, runner) -> tuple[torch.Tensor, torch.Tensor]:
        state = runner.bare_model().state_dict()
        return state[NAME].clone(), state["ema_" + NAME.replace(".", "_")].clone()


def test_hooks_come_between_the_steps_by_priority(demo_data, tmp_path):
    """Also those between two names; each finds what its place promises."""
    places = (39, "ABOVE_NORMAL", "NORMAL", 69, "LOW", 71)
    hooks = [dict(type="WitnessHook", place=place, priority=place) for place in places]
    config = tmp_path / "config.py"
    config.write_text(f"_base_ = {TINY!r}\ncustom_hooks = {hooks}\nema = dict(momentum=0.1)\n")
    more = ("runner.max_epochs=1", "checkpoint_config.iterations=1", "lr_config.warmup=None")
    SEEN.clear()
    cli.main([str(config), "--work-dir", str(tmp_path / "w"), *options(demo_data, *more)])
    assert SEEN["iteration"] == [  # stepped, averaged, checkpoint written
        (39, False, False, False),
        ("ABOVE_NORMAL", True, False, False),
        ("NORMAL", True, True, False),
        (69, True, True, False),
        ("LOW", True, True, True),
        (71, True, True, True),
    ]
    assert SEEN["epoch"] == [  # averages in the model's place, checkpoint written, evaluated
        (39, False, False, False),
        ("ABOVE_NORMAL", False, False, False),
        ("NORMAL", True, False, False),
        (69, True, False, False),
        ("LOW", True, True, False),
        (71, True, True, True),
    ]


@HOOKS.register_module()
class CountingOptimizerHook(OptimizerHook):
    """A user's own step of the optimizer."""

    steps = 0

    def after_train_iter(self, runner):
        super().after_train_iter(runner)
        CountingOptimizerHook.steps += 1


def test_a_user_s_own_step(demo_data, tmp_path, monkeypatch):
    """It replaces ours, and is left out for a loss that is not finite."""
    forward, calls = RetinaHead.forward_train, []

    def spoiled(self, *args, **kwargs):
        losses = forward(self, *args, **kwargs)
        calls.append(None)
        if len(calls) == 3:
            losses["loss_cls"] = [loss * math.nan for loss in losses["loss_cls"]]
        return losses

    monkeypatch.setattr(RetinaHead, "forward_train", spoiled)
    more = (
        *("optimizer_config.type=CountingOptimizerHook", "faults.nonfinite_loss=skip"),
        *("runner.max_epochs=1", "data.workers_per_gpu=0"),
    )
    work = tmp_path / "w"
    cli.main([TINY, "--work-dir", str(work), "--no-validate", *options(demo_data, *more)])
    found = torch.load(work / "latest.pth", weights_only=True)
    assert CountingOptimizerHook.steps == found["meta"]["iter"] - 1 == len(calls) - 1
    assert all(torch.isfinite(value).all() for value in found["state_dict"].values())
    steps = {int(state["step"]) for state in found["optimizer"]["state"].values()}
    assert steps == {CountingOptimizerHook.steps}
