"""RecConv and RecAttn against their equations written out, and what is peculiar to the family."""

import pytest
import torch
import torch.nn.functional as F
from mmdet.models import build_backbone

from models_mm.backbones.recnext import LinearAttention, RecAttn, RecConv

from .golden import build, fill_weights, images

TOLERANCE = 1e-12
BN = {"type": "BN"}


def depthwise(x, weight, stride=1):
    return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=x.shape[1])


def bilinear_matrix(size_in, size_out):
    """Rows are destinations: weights of the two sources around (p + 1/2) * in / out - 1/2."""
    matrix = torch.zeros(size_out, size_in, dtype=torch.float64)
    for p in range(size_out):
        source = max((p + 0.5) * size_in / size_out - 0.5, 0.0)
        low = min(int(source), size_in - 1)
        high = min(low + 1, size_in - 1)
        matrix[p, low] += 1 - (source - low)
        matrix[p, high] += source - low
    return matrix


def recconv_equation(module, x):
    """u_l = K_l (x_l + enlarged u_{l+1}), from the definition, by recursion over levels."""
    levels = len(module.convs) - 1

    def mixed(x, level):
        kernel = module.convs[levels - level].weight
        if level == levels:
            return depthwise(x, kernel)
        lower = mixed(depthwise(x, module.down.weight, stride=2), level + 1)
        rows = bilinear_matrix(lower.shape[2], x.shape[2])
        columns = bilinear_matrix(lower.shape[3], x.shape[3])
        enlarged = torch.einsum("yi,ncij,xj->ncyx", rows, lower, columns)
        return depthwise(x + enlarged, kernel)

    return mixed(x, 0)


def normed(x, norm):
    """Eval-mode batch norm from its definition."""
    shape = (1, -1, 1, 1)
    x = (x - norm.running_mean.view(shape)) / (norm.running_var.view(shape) + 1e-5).sqrt()
    return x * norm.weight.view(shape) + norm.bias.view(shape)


def attention_equation(module, x):
    """o_p = sum_t (q_p . k_t) v_t / n / (q_p . mean k + 1e-6), by heads, over all n x n pairs."""
    channels, tokens = x.shape[1], x.shape[2] * x.shape[3]
    half = channels // 2
    weight = module.qk.conv.weight[:, :, 0, 0]
    qk = torch.cat(
        [
            torch.einsum("oc,nchw->nohw", weight[:channels], x[:, :half]),
            torch.einsum("oc,nchw->nohw", weight[channels:], x[:, half:]),
        ],
        dim=1,
    )
    qk = normed(qk, module.qk.norm)
    z = torch.where(qk > 0, qk + 1, qk.exp()).flatten(2)
    outputs = []
    for q, k, v in zip(
        z[:, :channels].chunk(module.heads, 1),
        z[:, channels:].chunk(module.heads, 1),
        x.flatten(2).chunk(module.heads, 1),
        strict=True,
    ):
        pairs = torch.einsum("ndp,ndt->npt", q, k)
        weights = pairs / tokens / (pairs.mean(-1, keepdim=True) + 1e-6)
        outputs.append(torch.einsum("npt,ndt->ndp", weights, v))
    out = torch.cat(outputs, 1).view_as(x)
    return out + normed(depthwise(x, module.pe.conv.weight), module.pe.norm)


def recattn_equation(module, x):
    down, attention = module.down
    low = normed(depthwise(x, down.conv.weight, stride=2), down.norm)
    low = attention_equation(attention, low)
    rows = torch.arange(x.shape[2]) * low.shape[2] // x.shape[2]
    columns = torch.arange(x.shape[3]) * low.shape[3] // x.shape[3]
    enlarged = low[:, :, rows][:, :, :, columns]
    return normed(depthwise(x + enlarged, module.conv.conv.weight), module.conv.norm)


def results(function, module, x):
    """Output, and the gradients of the input and of every parameter."""
    x = x.clone().requires_grad_()
    out = function(x)
    weights = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)
    return [out, *torch.autograd.grad((out * weights).sum(), [x, *module.parameters()])]


def assert_same(module, equation, x):
    actual = results(module, module, x)
    expected = results(lambda x: equation(module, x), module, x)
    for a, e in zip(actual, expected, strict=True):
        assert (a - e).abs().max() <= TOLERANCE * e.abs().max()


SIZES = [(1, 3), (2, 3), (13, 25), (16, 24), (37, 50)]


@pytest.mark.parametrize("size", [(1, 1), *SIZES])
@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_recconv_is_its_equation(levels, size):
    module = fill_weights(RecConv(6, levels).double())
    assert_same(module, recconv_equation, images(2, 6, *size))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("heads", [2, 4])
def test_recattn_is_its_equation(heads, size):
    module = fill_weights(RecAttn(16, heads, BN).double()).eval()
    assert_same(module, recattn_equation, images(2, 16, *size))


@torch.inference_mode()
def test_one_token_attends_to_itself():
    # Without gradients: those of queries and keys are left to the epsilon alone, and cancel.
    module = fill_weights(RecAttn(16, 2, BN).double()).eval()
    x = images(2, 16, 1, 1)
    expected = recattn_equation(module, x)
    assert (module(x) - expected).abs().max() <= TOLERANCE * expected.abs().max()


@torch.inference_mode()
def test_recconv_is_linear():
    module = fill_weights(RecConv(6, 3).double())
    x, y = images(1, 6, 21, 34), images(2, 6, 21, 34)[1:]
    expected = 2 * module(x) - 3 * module(y)
    assert (module(2 * x - 3 * y) - expected).abs().max() <= TOLERANCE * expected.abs().max()


@torch.inference_mode()
def test_attention_over_a_large_map_stays_in_half_range():
    # 128 * 128 tokens of value 8 with keys of about 1 add up to twice the largest half number.
    module = LinearAttention(64, 2, BN).eval()
    x = torch.full((1, 64, 128, 128), 8.0)
    expected = module(x)
    actual = module.half()(x.half()).float()
    assert (actual - expected).abs().max() <= 1e-2 * expected.abs().max()


def test_frozen_stages_by_name():
    model = build("recnext_a3", frozen_stages=2)
    frozen = {k.rsplit(".blocks")[0] for k, p in model.named_parameters() if not p.requires_grad}
    trained = {k.rsplit(".blocks")[0] for k, p in model.named_parameters() if p.requires_grad}
    assert all(key.startswith(("stem.", "stages.0", "stages.1")) for key in frozen)
    assert all(key.startswith(("stages.2", "stages.3")) for key in trained)


@pytest.mark.parametrize("name", ["recnext_m3", "recnext_a3"])
def test_sync_batch_norm_has_the_same_state_and_fuses(name):
    plain = build(name)
    synced = build(name, norm_cfg={"type": "SyncBN"})
    assert {k: v.shape for k, v in synced.state_dict().items()} == {
        k: v.shape for k, v in plain.state_dict().items()
    }
    x = images(1, 3, 33, 65)
    with torch.inference_mode():
        expected = fill_weights(plain).eval()(x)
        outputs = fill_weights(synced).eval().fuse()(x)
    for a, e in zip(outputs, expected, strict=True):
        assert (a - e).abs().max() <= TOLERANCE * e.abs().max()


def test_other_norms_do_not_fuse():
    model = build("recnext_m3", norm_cfg={"type": "GN", "num_groups": 4}).eval()
    with pytest.raises(RuntimeError, match="GroupNorm"):
        model.fuse()


def test_arch_is_the_entry_name():
    named = build_backbone({"type": "recnext_a4"})
    by_arch = build_backbone({"type": "RecNeXt", "arch": "a4"})
    assert named.state_dict().keys() == by_arch.state_dict().keys()
    with pytest.raises(ValueError, match="arch must be one of m3, m4, m5, a3, a4, a5"):
        build_backbone({"type": "RecNeXt", "arch": "m6"})
    with pytest.raises(TypeError, match="arch"):
        build_backbone({"type": "recnext_m3", "arch": "m4"})
