"""Training in two real processes equals the same computation in one."""

import pytest
import torch
from mmcv.parallel import MMDataParallel, MMDistributedDataParallel
from mmdet import apis, utils
from mmdet.utils import util_distribution

from models_mm.mmdet2.compat import ddp

from .conftest import run_job, torchrun_environments
from .tiny_detector import TinyDetector, inference_batch, training_batch


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    out = tmp_path_factory.mktemp("ddp")
    run_job("ddp_job.py", out, environments=torchrun_environments(2))
    return [torch.load(out / f"{rank}.pth", weights_only=True) for rank in range(2)]


def mean_gradients(model, batches):
    """Gradients of each batch alone, averaged: what two ranks must both end up with."""
    total = {}
    for batch in batches:
        model.zero_grad()
        MMDataParallel(model).train_step(batch, None)["loss"].backward()
        for name, p in model.named_parameters():
            if p.grad is not None:
                total[name] = total.get(name, 0) + p.grad / len(batches)
    return total


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7)


def test_gradients_are_the_mean_over_ranks(ranks):
    model = TinyDetector().train()
    for step in range(2):
        expected = mean_gradients(model, [training_batch(10 * step + rank) for rank in range(2)])
        with torch.no_grad():
            for name, p in model.named_parameters():
                p -= 0.1 * expected[name]
        for rank in ranks:
            assert_equal(rank["train_two_steps"][f"gradients {step}"], expected)


def test_logged_loss_is_the_mean_over_ranks(ranks):
    found = [rank["train_two_steps"] for rank in ranks]
    assert found[0]["loss"] == found[1]["loss"] > 0
    assert found[0]["val_loss"] == found[1]["val_loss"] > 0
    assert found[0]["num_samples"] == 2


def test_inference_sees_this_ranks_images(ranks):
    for rank, found in enumerate(ranks):
        ((name, features),) = found["train_two_steps"]["results"]
        assert name == inference_batch(rank)["img_metas"][0].data[0][0]["name"]
        assert features.shape == (4,)


def test_unused_parameters(ranks):
    model = TinyDetector(extra=True)
    batches = [training_batch(0), training_batch(1, use_extra=True)]
    expected = mean_gradients(model, batches)
    assert "extra.weight" in expected
    for rank in ranks:
        assert not rank["train_with_unused_layer"]["unused layer has a gradient"]
        assert_equal(rank["train_with_unused_layer"]["gradients"], expected)


def test_forward_replaced_on_the_instance_stays(ranks):
    for rank in ranks:
        assert rank["train_with_wrapped_forward"] == {"calls": [True, True, False], "kept": True}


def test_a_failed_step_leaves_the_module_whole(ranks):
    for rank in ranks:
        assert "gt_bboxes" in rank["fail_and_go_on"]["message"]
        assert not rank["fail_and_go_on"]["own forward"]


def test_every_copy_of_build_ddp_is_replaced():
    modules = (util_distribution, utils, apis.train)
    assert {module.build_ddp for module in modules} == {ddp.build_ddp}


def test_build_ddp_refuses_unknown_devices_as_before():
    with pytest.raises(AssertionError, match="Only available for cuda"):
        utils.build_ddp(TinyDetector(), "tpu")


def test_apply_twice():
    before = dict(vars(MMDistributedDataParallel)), utils.build_ddp
    ddp.apply()
    assert (dict(vars(MMDistributedDataParallel)), utils.build_ddp) == before
