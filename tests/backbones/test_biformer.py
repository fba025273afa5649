"""BiFormer against the equations of its blocks written out, and what is peculiar to the family."""

import pytest
import torch
import torch.nn.functional as F
from mmdet.models import build_backbone
from torch.nn.modules.batchnorm import _BatchNorm

from models_mm.backbones.biformer import BiFormer, GlobalAttention, RoutingAttention

from ..layers.test_routing_attention import routing_equation
from .golden import build, fill_weights, images

TOLERANCE = 1e-10
SHALLOW = dict(width=32, depths=(1, 1, 2, 1))
REFERENCE = dict(
    depth=[4, 4, 18, 4],
    embed_dim=[96, 192, 384, 768],
    qk_dims=[96, 192, 384, 768],
    mlp_ratios=[3, 3, 3, 3],
    n_win=16,
    topks=[1, 4, 16, -2],
    kv_downsample_mode="identity",
    kv_per_wins=[-1, -1, -1, -1],
    side_dwconv=5,
    before_attn_dwconv=3,
    layer_scale_init_value=-1,
    head_dim=32,
    param_routing=False,
    diff_routing=False,
    soft_routing=False,
    pre_norm=True,
    pe=None,
    auto_pad=True,
    num_classes=80,
    use_checkpoint_stages=[],
    norm_eval=True,
    disable_bn_grad=False,
    pretrained=None,
)


def depthwise(x, conv):
    """(N, H, W, C) -> same."""
    x = x.permute(0, 3, 1, 2)
    x = F.conv2d(x, conv.weight, conv.bias, padding=conv.weight.shape[-1] // 2, groups=x.shape[1])
    return x.permute(0, 2, 3, 1)


def routing_block(module, x):
    """Zeros below and to the right before the projection, nothing masked, cropped at the end."""
    height, width, channels = x.shape[1:]
    x = F.pad(x, (0, 0, 0, -width % 16, 0, -height % 16))
    q, k, v = F.linear(x, module.qkv.qkv.weight, module.qkv.qkv.bias).split(channels, -1)
    out, _ = routing_equation(q, k, v, channels // 32, 16, module.topk, channels**-0.5)
    out = F.linear(out + depthwise(v, module.lepe), module.wo.weight, module.wo.bias)
    return out[:, :height, :width]


def global_block(module, x):
    """Softmax over all pixels by eight heads; the local term is of the input."""
    q, k, v = F.linear(x, module.qkv.weight).flatten(1, 2).chunk(3, -1)
    width = x.shape[-1] // 8
    outputs = [
        torch.softmax(q_head @ k_head.transpose(1, 2) * width**-0.5, -1) @ v_head
        for q_head, k_head, v_head in zip(*(x.split(width, -1) for x in (q, k, v)), strict=True)
    ]
    out = torch.cat(outputs, -1).view_as(x) + depthwise(x, module.lepe)
    return F.linear(out, module.proj.weight, module.proj.bias)


@pytest.fixture
def written_out(monkeypatch):
    """A function that swaps both kinds of attention for their equations."""

    def swap():
        monkeypatch.setattr(RoutingAttention, "forward", routing_block)
        monkeypatch.setattr(GlobalAttention, "forward", global_block)

    return swap


def results(model, x):
    """Outputs, and the gradients of the input and of every parameter."""
    x = x.clone().requires_grad_()
    outputs = model(x)
    loss = sum((out * torch.linspace(-1, 2, out.numel()).view_as(out)).sum() for out in outputs)
    return [*outputs, *torch.autograd.grad(loss, [x, *model.parameters()])]


@pytest.mark.parametrize("shape", [(3, 64, 96), (1, 200, 312), (2, 67, 45), (1, 33, 512)])
def test_attention_is_its_equation(shape, written_out):
    batch, *size = shape
    model = fill_weights(BiFormer(SHALLOW).double()).train()
    x = images(batch, 3, *size)
    actual = results(model, x)
    written_out()
    for a, e in zip(actual, results(model, x), strict=True):
        assert (a - e).abs().max() <= TOLERANCE * e.abs().max()


def test_identical_calls_give_identical_bits():
    def call():
        return results(model, x)

    model = BiFormer(SHALLOW)
    x = images(2, 3, 67, 45).float()
    assert all(torch.equal(a, b) for a, b in zip(call(), call(), strict=True))


def test_outputs_are_contiguous():
    assert all(out.is_contiguous() for out in BiFormer(SHALLOW)(images(1, 3, 33, 65).float()))


@pytest.mark.parametrize("name", ["BiFormer", "BiFormer_mm"])
def test_keywords_of_the_reference_name_a_variant(name):
    model = build_backbone({"type": name, **REFERENCE})
    named = build_backbone({"type": "biformer_b"})
    assert {k: v.shape for k, v in model.state_dict().items()} == {
        k: v.shape for k, v in named.state_dict().items()
    }


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("n_win", 7),
        ("topks", [1, 4, 16, 49]),
        ("layer_scale_init_value", 1e-6),
        ("soft_routing", True),
        ("mlp_ratios", [4, 4, 4, 4]),
        ("qk_scale", 0.125),
        ("auto_pad", False),
        ("depth", [2, 2, 8, 2]),
        ("qk_dims", [64, 128, 256, 512]),
    ],
)
def test_values_that_no_published_row_uses_are_refused_by_name(keyword, value):
    with pytest.raises(ValueError, match=keyword):
        build_backbone({"type": "BiFormer_mm", **REFERENCE, keyword: value})


def test_arch_is_the_entry_name():
    named = build_backbone({"type": "biformer_s"})
    for settings in ({"arch": "s"}, {}):
        model = build_backbone({"type": "BiFormer", **settings})
        assert model.out_channels == named.out_channels
    with pytest.raises(ValueError, match="arch must be one of s, b"):
        build_backbone({"type": "BiFormer", "arch": "t"})
    with pytest.raises(TypeError, match="arch"):
        build_backbone({"type": "biformer_s", "arch": "b"})
    with pytest.raises(TypeError, match="moe"):
        build_backbone({"type": "BiFormer_mm", "moe": True})


def test_norms_are_in_eval_mode_by_default():
    norms = [m for m in BiFormer(SHALLOW).train().modules() if isinstance(m, _BatchNorm)]
    assert len(norms) == 5 and not any(norm.training for norm in norms)
    assert all(norm.weight.requires_grad for norm in norms)


def test_disable_bn_grad():
    model = BiFormer(SHALLOW, disable_bn_grad=True)
    for module in model.modules():
        trainable = [p.requires_grad for p in module.parameters(recurse=False)]
        assert all(trained != isinstance(module, _BatchNorm) for trained in trainable)


@pytest.mark.parametrize("out_indices", [(1, 2, 3), (0, 2)])
def test_what_is_not_asked_for_has_no_gradient(out_indices):
    model = BiFormer(SHALLOW, out_indices=out_indices)
    sum(out.sum() for out in model(images(1, 3, 33, 65).float())).backward()
    for key, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
    assert model.state_dict().keys() == BiFormer(SHALLOW).state_dict().keys()


def test_checkpointing_of_some_stages_changes_nothing():
    x = images(2, 3, 33, 65)
    model = fill_weights(BiFormer(SHALLOW).double())
    some = fill_weights(BiFormer(SHALLOW, use_checkpoint_stages=[0, 2]).double())
    assert all(torch.equal(a, b) for a, b in zip(results(model, x), results(some, x), strict=True))
    with pytest.raises(ValueError, match="use_checkpoint_stages"):
        BiFormer(SHALLOW, use_checkpoint_stages=[4])


def test_drop_path_grows_over_all_blocks():
    model = build("biformer_s", drop_path_rate=0.29)
    rates = [
        getattr(block.drop_path, "drop_prob", 0.0) for stage in model.stages for block in stage
    ]
    assert rates == pytest.approx([0.01 * b for b in range(30)])


def test_initialisation():
    torch.manual_seed(0)
    model = build("biformer_s")
    weight = model.stages[3][0].mlp[0].weight
    assert abs(weight.std() - 0.02) < 1e-3 and abs(weight.mean()) < 1e-3
    assert not model.stages[0][0].attn.qkv.qkv.bias.any()


def test_pretrained_is_an_init_cfg():
    model = BiFormer(SHALLOW, pretrained="weights.pth")
    assert model.init_cfg == dict(type="Pretrained", checkpoint="weights.pth")
    with pytest.raises(ValueError, match="not both"):
        BiFormer(SHALLOW, pretrained="weights.pth", init_cfg=dict(type="Pretrained"))
