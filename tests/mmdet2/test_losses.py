"""The losses of an iteration go to the other ranks in one call, and are read when they are used."""

import models_mm  # noqa: F401  isort: skip
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from mmdet.models.detectors import BaseDetector

from models_mm.errors import UserError
from models_mm.mmdet2.console import Console
from models_mm.mmdet2.faults import LossCheck
from models_mm.mmdet2.losses import Losses, LossLog, number_of, parse_losses

from .counting import Collectives, Readings

# As a Mask R-CNN has them: one per level of the pyramid for the proposals, and single ones.
NAMES = ("loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "acc", "loss_bbox", "loss_mask")


@contextmanager
def process_group(ranks: int):
    """A process group whose collectives do nothing."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()


def losses_of_an_iteration() -> dict:
    torch.manual_seed(0)
    return {
        name: [torch.rand(3, requires_grad=True) for _ in range(5)]
        if "rpn" in name
        else torch.rand((), requires_grad=True)
        for name in NAMES
    }


def counted(parse) -> tuple[int, int]:
    """Collectives and readings of one iteration."""
    with Readings() as readings, Collectives() as collectives:
        # the process group does not add what other ranks have: noticed after all has been counted
        with suppress(RuntimeError):
            parse(None, losses_of_an_iteration())
    return collectives.names.total(), readings.names.total()


def test_one_collective_and_one_reading():
    with process_group(1):  # of more, mmdet would notice before all has been counted
        assert counted(BaseDetector._parse_losses) == (len(NAMES) + 2, len(NAMES) + 2)
    with process_group(2):
        assert counted(parse_losses) == (1, 1)


def test_values_are_those_of_mmdet():
    losses = losses_of_an_iteration()
    expected_loss, expected = BaseDetector._parse_losses(None, losses)
    loss, found = parse_losses(None, losses)
    assert torch.equal(loss, expected_loss) and loss.requires_grad
    assert list(found.items()) == list(expected.items())


def test_what_is_no_loss_is_refused():
    with pytest.raises(TypeError, match="loss_mask is not a tensor or list of tensors"):
        parse_losses(None, {**losses_of_an_iteration(), "loss_mask": 1.0})


def on_gpu(**values: float) -> Losses:
    """Losses as they are on a GPU: not read yet."""
    return Losses(list(values), torch.tensor([*values.values(), number_of(list(values)), 0.0]))


def test_nothing_is_read_before_it_is_logged():
    log, first, second = LossLog(), on_gpu(loss=1.0, acc=50.0), on_gpu(loss=3.0, acc=70.0)
    with Readings() as readings:
        log.update(first, 2)
        log.update(second, 2)
        log.update({"grad_norm": 0.5}, 2)
        assert not readings.names
        log.average(1)
        assert readings.names == {"tolist": 1} and second.values_read and not first.values_read
    assert log.output == {"loss": 3.0, "acc": 70.0, "grad_norm": 0.5}
    log.average()
    assert log.output == {"loss": 2.0, "acc": 60.0, "grad_norm": 0.5}


def test_a_progress_bar_shows_the_losses_of_the_last_log():
    shown, console = [], Console(interval=3, by_epoch=False)
    console.first, console.began = 0, 0.0
    console.bar = SimpleNamespace(disable=False, n=0, update=lambda n: None)
    console.bar.set_description_str = lambda text, refresh: shown.append(text.partition("loss ")[2])
    runner = SimpleNamespace(log_buffer=LossLog(), max_iters=6, samples_per_gpu=1, world_size=1)
    runner.current_lr, runner.mode, runner.data_loader = (lambda: [0.1]), "train", [None] * 6
    with Readings() as readings:
        for runner.iter in range(6):
            runner.inner_iter = runner.iter
            runner.outputs = {"log_vars": on_gpu(loss=1.0 + runner.iter)}
            runner.log_buffer.update(runner.outputs["log_vars"])
            runner.log_buffer.update({"time": 1.0})
            console.after_train_iter(runner)
    assert shown == ["1.000 ()"] * 3 + ["2.000 ()"] * 3  # of the first; the mean of three
    assert readings.names["tolist"] == 6


def test_a_hook_may_use_them_as_numbers():
    losses = on_gpu(loss=1.5, acc=50.0)
    assert {**losses} == dict(losses) == {"loss": 1.5, "acc": 50.0}
    assert losses["loss"] > 1 and losses.get("other") is None and "acc" in losses


def test_ranks_with_other_losses_are_named():
    losses = Losses(["loss"], torch.tensor([1.0, number_of(["loss"]) / 2, 0.0]))
    with pytest.raises(RuntimeError, match="different losses; rank 0 has loss"):
        losses["loss"]


def runner_at(iteration: int, losses: Losses) -> SimpleNamespace:
    """What the check asks a runner for."""
    outputs = {"loss": torch.tensor(losses.reduced[0].item()), "log_vars": losses}
    batch = {"img_metas": [[{"ori_filename": f"{iteration}.jpg"}]]}
    return SimpleNamespace(outputs=outputs, data_batch=batch, iter=iteration, meta={})


@pytest.mark.parametrize("due", ["iteration", "checkpoint"])
def test_a_loss_that_is_not_finite_ends_the_run_in_the_same_iteration_of_all_ranks(due):
    check, last = LossCheck("stop"), 9 if due == "iteration" else 4
    for iteration in range(last + 1):
        value = float("nan") if iteration == 1 else 1.0
        losses = on_gpu(loss_cls=value, loss=value)
        runner = runner_at(iteration, losses)
        assert check.passes(runner)
        assert losses["loss"]  # a hook, or the console of one rank, reads it: nothing follows
        if iteration < last:
            check.look_back(runner)
    with pytest.raises(UserError) as error:
        check.look_back(runner, now=due == "checkpoint")
    assert "not finite in iteration 2, images 1.jpg: loss_cls nan, loss nan" in str(error.value)


def test_finite_losses_are_forgotten():
    check = LossCheck("stop")
    with Readings() as readings:
        for iteration in range(29):
            runner = runner_at(iteration, on_gpu(loss=1.0))
            assert check.passes(runner)
            check.look_back(runner)
    assert len(check.unread) == 9 and readings.names["tolist"] == 20
    check.look_back(runner, now=True)
    assert not check.unread


def test_a_step_can_only_be_left_out_if_its_loss_is_read():
    check = LossCheck("skip")
    losses = on_gpu(loss=1.0)
    assert check.passes(runner_at(0, losses)) and losses.values_read
