"""What a detector may expect of any backbone, over every variant in the table."""

import math

import pytest
import torch
from mmdet.models import build_backbone
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .golden import VARIANTS, build, cases, fill_weights, images

FUSE_TOLERANCE = 1e-10  # relative, float64
# Networks that make their kernels out of their inputs enlarge rounding errors: an image changed by
# 1e-15 changes the last map of the first of these by up to 5e-7.
FUSE_TOLERANCES = {"kw1x_mobilenetv2": 1e-6, "kw4x_mobilenetv2": 1e-8}
FUSE_TOLERANCES |= {"kw1x_resnet50": 1e-9, "kw4x_resnet50": 1e-8}
# Dynamic kernels start with large gradients: what a gradient scaler would arrive at in float16.
LOSS_SCALE_OF_WAREHOUSES = 2**-18
# Strides that drop what is left of a patch, and need a whole one; others round up.
FLOORING = {"convnext_t", "kw1x_convnext_t"}
# A published classifier in the state dict, without use.
CLASSIFIER = ("fc.", "classifier.")
# Cells of kernel warehouses belong to no stage.
CELLS = "warehouse_manager."


@pytest.fixture(params=cases(VARIANTS))
def name(request):
    return request.param


def assert_close(actual, expected, tolerance):
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape
        assert (a - e).abs().max() <= tolerance * e.abs().max()


def same(actual, expected):
    return all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))


def total(outputs):
    """A scalar that depends on every output, unlike a sum behind a batch norm."""
    return sum((out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum() for out in outputs)


def norm_buffers(module):
    return {
        f"{key}.{kind}": buffer.clone()
        for key, norm in module.named_modules()
        if isinstance(norm, _BatchNorm)
        for kind, buffer in norm.named_buffers()
    }


@torch.inference_mode()
def test_stated_channels_and_strides_are_true(name):
    model = build(name).eval()
    rounded = math.floor if name in FLOORING else math.ceil
    smallest = (32, 47) if name in FLOORING else (1, 1)
    for height, width in ((64, 96), (33, 65), (95, 47), smallest):
        outputs = model(images(1, 3, height, width))
        assert isinstance(outputs, tuple)
        assert [tuple(out.shape) for out in outputs] == [
            (1, channels, rounded(height / stride), rounded(width / stride))
            for channels, stride in zip(model.out_channels, model.strides, strict=True)
        ]
        assert all(out.isfinite().all() for out in outputs)


@torch.inference_mode()
def test_out_indices_select_outputs(name):
    model = fill_weights(build(name)).eval()
    x = images(1, 3, 33, 65)
    outputs = dict(zip(model.out_indices, model(x), strict=True))
    channels = dict(zip(model.out_indices, model.out_channels, strict=True))
    strides = dict(zip(model.out_indices, model.strides, strict=True))
    for out_indices in ((1,), [1, 2, 3], (2, 3)) if 0 not in outputs else ((0,), [0, 2, 3], (1, 2)):
        some = build(name, out_indices=out_indices).eval()
        # Norms of outputs that are not asked for may not exist; everything else does.
        some.load_state_dict({key: model.state_dict()[key] for key in some.state_dict()})
        assert some.out_channels == tuple(channels[i] for i in out_indices)
        assert some.strides == tuple(strides[i] for i in out_indices)
        assert same(some(x), [outputs[i] for i in out_indices])


def test_every_parameter_gets_a_gradient(name):
    model = build(name)
    total(model(images(2, 3, 33, 65))).backward()
    without = [
        k for k, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()
    ]
    unused = [k for k, p in model.named_parameters() if not p.requires_grad]
    assert without == unused and all(k.startswith(CLASSIFIER) for k in unused)


def test_stages_without_output_do_not_train(name):
    """DDP waits for the gradient of every parameter that asks for one."""
    first = build(name).out_indices[0]
    model = build(name, out_indices=(first, first + 1))
    total(model(images(2, 3, 33, 65))).backward()
    without = [k for k, p in model.named_parameters() if p.grad is None]
    unused = [k for k, p in model.named_parameters() if not p.requires_grad]
    assert without == unused and len(unused) > 10


@pytest.mark.parametrize("frozen_stages", [0, 2])
def test_frozen_stages(name, frozen_stages):
    model = build(name, frozen_stages=frozen_stages)
    frozen = nn.ModuleList(m for group in model.stage_modules()[: frozen_stages + 1] for m in group)
    before = norm_buffers(model)
    assert model.train() is model
    total(model(images(2, 3, 33, 65))).backward()

    fixed = {id(p) for p in frozen.parameters()}
    assert fixed
    for key, parameter in model.named_parameters():
        still = id(parameter) in fixed or key.startswith(CLASSIFIER)
        assert parameter.requires_grad == (not still), key
        assert (parameter.grad is None) == still, key
    assert not any(module.training for module in frozen.modules() if module is not frozen)
    still = {id(m) for m in frozen.modules()}
    for key, norm in model.named_modules():
        if isinstance(norm, _BatchNorm):
            unchanged = torch.equal(norm.running_var, before[f"{key}.running_var"])
            assert unchanged == (id(norm) in still), key


def test_freezing_all_stages_leaves_nothing_to_train(name):
    model = build(name, frozen_stages=len(build(name).stage_modules()) - 1)
    learning = [key for key, p in model.named_parameters() if p.requires_grad]
    assert all(key.startswith(CELLS) for key in learning)


def test_norm_eval_fixes_statistics_but_not_weights(name):
    model = build(name, norm_eval=True).train()
    before = norm_buffers(model)
    total(model(images(2, 3, 33, 65))).backward()
    after = norm_buffers(model)
    assert before.keys() == after.keys() and same(after.values(), before.values())
    assert model.training
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            assert not module.training and module.weight.grad is not None


def test_training_updates_statistics(name):
    model = build(name)
    before = norm_buffers(model)
    model(images(2, 3, 33, 65))
    after = norm_buffers(model)
    assert not any(torch.equal(after[key], before[key]) for key in before)


def test_train_and_eval_return_the_model(name):
    model = build(name)
    assert model.train() is model and model.training
    assert model.eval() is model and not any(module.training for module in model.modules())


def test_checkpointing_changes_nothing_but_memory(name):
    results = []
    for with_cp in (False, True):
        model = fill_weights(build(name, with_cp=with_cp, drop_path_rate=0.3)).train()
        torch.manual_seed(0)
        outputs = model(images(2, 3, 35, 33))
        total(outputs).backward()
        grads = [p.grad for p in model.parameters() if p.requires_grad]
        results.append((outputs, grads, list(norm_buffers(model).values())))
    for plain, recomputed in zip(*results, strict=True):
        assert same(recomputed, plain)


def test_drop_path_acts_in_training_only(name):
    x = images(2, 3, 33, 65)
    models = [fill_weights(build(name, drop_path_rate=rate, norm_eval=True)) for rate in (0.0, 0.5)]
    torch.manual_seed(0)
    with torch.inference_mode():
        plain, dropped = (model.train()(x) for model in models)
        plain_eval, dropped_eval = (model.eval()(x) for model in models)
    assert same(dropped_eval, plain_eval) and same(plain, plain_eval)
    assert not same(dropped, plain)


def test_fuse_keeps_the_function_and_leaves_no_norm(name):
    model = fill_weights(build(name)).eval()
    with torch.inference_mode():
        sizes = (64, 96), (33, 65), (32, 32) if name in FLOORING else (1, 1)
        expected = [model(images(1, 3, *size)) for size in sizes]
        assert model.fuse() is model
        assert not any(isinstance(module, _BatchNorm) for module in model.modules())
        for size, outputs in zip(sizes, expected, strict=True):
            tolerance = FUSE_TOLERANCES.get(name, FUSE_TOLERANCE)
            assert_close(model(images(1, 3, *size)), outputs, tolerance)
        once = model(images(1, 3, 33, 65))
        assert same(model.fuse()(images(1, 3, 33, 65)), once)


def test_fuse_and_training_exclude_each_other(name):
    model = build(name)
    with pytest.raises(RuntimeError, match="eval"):
        model.train().fuse()
    assert not model.fused
    model.eval().fuse()
    with pytest.raises(RuntimeError, match="fused"):
        model.train()
    assert model.eval() is model


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_finite(name, dtype):
    model = build(name).float()
    with torch.autocast("cpu", dtype=dtype):
        outputs = model(images(2, 3, 33, 65).float())
        loss = sum(out.float().square().mean() for out in outputs)
    scale = LOSS_SCALE_OF_WAREHOUSES if hasattr(model, "warehouse_manager") else 1
    (loss * scale).backward()
    assert all(out.isfinite().all() for out in outputs)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_unknown_keyword_is_an_error(name):
    with pytest.raises(TypeError, match="drop_paht"):
        build_backbone({**VARIANTS[name], "drop_paht": 0.1})


@pytest.mark.parametrize("out_indices", [(), (0, 5), (-1,), (1, 0), (2, 2), 3])
def test_bad_out_indices(name, out_indices):
    with pytest.raises(ValueError, match="out_indices must be strictly increasing"):
        build_backbone({**VARIANTS[name], "out_indices": out_indices})


def test_out_indices_may_be_any_sequence():
    backbone = build_backbone({**VARIANTS["recnext_m3"], "out_indices": range(1, 4)})
    assert backbone.out_indices == (1, 2, 3)


@pytest.mark.parametrize("rate", [-0.1, 1, 7, float("nan"), "much"])
@pytest.mark.parametrize("of", ["biformer_s", "convnext_t", "dfvt_t", "mpvit_t", "recnext_m3"])
def test_bad_drop_path_rate(of, rate):
    with pytest.raises(ValueError, match="drop_path_rate must be a number from 0 to less than 1"):
        build_backbone({**VARIANTS[of], "drop_path_rate": rate})


@pytest.mark.parametrize("frozen_stages", [-2, 6])
def test_bad_frozen_stages(name, frozen_stages):
    with pytest.raises(ValueError, match="frozen_stages must be -1"):
        build_backbone({**VARIANTS[name], "frozen_stages": frozen_stages})
