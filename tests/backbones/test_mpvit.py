"""MPViT against its direct formulation, and what is peculiar to the family."""

import pytest
import torch
from mmdet.core import build_optimizer
from mmdet.models import build_backbone
from torch import nn

from models_mm.backbones.mpvit import MPViT

from ..direct.mpvit import Direct
from .golden import build, cases, fill_weights, images

TOLERANCE = 1e-10
SMALL = dict(widths=(16, 24, 40, 48), layers=(1, 2, 2, 1), paths=(2, 3, 1, 2))
# entries of the state dict, distinct tensors among them, parameters
COUNTS = {
    "mpvit_t": (871, 549, 462),
    "mpvit_xs": (871, 549, 462),
    "mpvit_s": (1261, 729, 642),
    "mpvit_b": (1417, 801, 714),
}


def small(**settings):
    return fill_weights(MPViT(SMALL, **settings).double())


def results(function, parameters, x):
    """Outputs, and the gradients of the input and of every parameter."""
    x = x.clone().requires_grad_()
    outs = function(x)
    total = sum(
        (out * torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)).sum()
        for out in outs
    )
    return [*outs, *torch.autograd.grad(total, [x, *parameters])]


def assert_close(actual, expected, tolerance=TOLERANCE):
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape
        # 1: the keys' biases have no gradient but rounding errors; others are far above it
        assert (a - e).abs().max() <= tolerance * e.abs().max().clamp(min=1)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("size", [(64, 96), (200, 312), (33, 47), (35, 130)])
def test_outputs_and_gradients_are_those_of_the_direct_formulation(size, training):
    model = small().train(training)
    x = images(2, 3, *size)
    actual = results(model, model.parameters(), x)
    statistics = {k: v.clone() for k, v in model.state_dict().items() if "running" in k}
    fill_weights(model)
    assert_close(actual, results(Direct(model), model.parameters(), x))
    assert_close(statistics.values(), [v for k, v in model.state_dict().items() if "running" in k])


@pytest.mark.parametrize("name", cases(COUNTS))
@torch.inference_mode()
def test_odd_size_of_the_published_variants(name):
    model = fill_weights(build(name)).eval()
    x = images(1, 3, 200, 312)
    outs = model(x)
    assert [tuple(out.shape[2:]) for out in outs] == [(50, 78), (25, 39), (13, 20), (7, 10)]
    assert_close(outs, Direct(model)(x))
    some = build_backbone(dict(type=type(model).__name__, out_indices=(1, 2, 3))).double().eval()
    some.load_state_dict(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(some(x), outs[1:], strict=True))


@pytest.mark.parametrize("training", [False, True])
def test_single_precision_takes_another_way_to_the_same_values(training):
    """Products by oneDNN, norms and activations computed again: no worse than the direct way."""
    x = images(2, 3, 160, 224)
    model = small().train(training)
    exact = as_vectors(model, results(Direct(model), model.parameters(), x))
    errors = []
    for wrapped in (lambda model: model, Direct):
        model = small().float().train(training)
        vectors = as_vectors(model, results(wrapped(model), model.parameters(), x.float()))
        errors.append([(a - e).norm() / e.norm() for a, e in zip(vectors, exact, strict=True)])
    for own, direct in zip(*errors, strict=True):
        # of which a batch norm of channels-last maps costs more than one of the default layout
        assert own <= 10 * direct < 1e-2


def as_vectors(model, values):
    """The outputs, and all gradients as one vector: alone, some are rounding errors only."""
    outs = len(model.out_channels)
    return [*values[:outs], torch.cat([gradient.flatten() for gradient in values[outs:]])]


@pytest.mark.parametrize("size", [(160, 224), (33, 47)])
@torch.inference_mode()
def test_inference_in_single_precision(size):
    model = small().eval()
    x = images(2, 3, *size)
    expected = Direct(model)(x)
    for single in (model.float(), model.fuse()):
        assert_close([out.double() for out in single(x.float())], expected, 1e-5)


def test_drop_path_in_training():
    x = images(2, 3, 64, 96)
    models = [small(drop_path_rate=rate).train() for rate in (0.0, 0.4)]
    torch.manual_seed(0)
    plain, dropped = (model(x) for model in models)
    assert_close(plain, Direct(small().train())(x))
    assert not any(torch.equal(a, b) for a, b in zip(plain[1:], dropped[1:], strict=True))


def test_drop_path_grows_over_all_layers_and_is_alike_in_all_paths():
    model = MPViT(SMALL, drop_path_rate=0.5)
    rates = []
    for stage in model.mhca_stages:
        paths = [
            [getattr(layer.drop_path, "drop_prob", 0.0) for layer in blocks.MHCA_layers]
            for blocks in stage.mhca_blks
        ]
        assert all(path == paths[0] for path in paths)
        rates += paths[0]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])


@pytest.mark.parametrize("name", COUNTS)
def test_shared_tensors_count_once(name):
    entries, tensors, parameters = COUNTS[name]
    model = build(name)
    state = model.state_dict()
    assert len(state) == entries
    assert len({value.data_ptr() for value in state.values()}) == tensors
    names = [key for key, _ in model.named_parameters()]
    assert len(names) == parameters
    assert "mhca_stages.0.mhca_blks.0.cpe.proj.weight" in names
    groups = build_optimizer(model, dict(type="AdamW", lr=1e-4)).param_groups
    assert sum(len(group["params"]) for group in groups) == parameters


def test_layers_of_an_encoder_learn_one_position():
    model = small().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sum(out.square().mean() for out in model(images(2, 3, 64, 96))).backward()
    optimizer.step()
    state = model.state_dict()
    encoder = "mhca_stages.1.mhca_blks.2."
    for layer in range(2):
        for place in ("", "factoratt_crpe."):
            for key in ("crpe.conv_list.1.weight", "crpe.conv_list.2.bias"):
                alias = f"{encoder}MHCA_layers.{layer}.{place}{key}"
                assert torch.equal(state[alias], state[encoder + key])


def test_mlp_ratio():
    model = MPViT("tiny", mlp_ratio=4)
    assert sum(p.numel() for p in model.parameters()) == 7_934_336
    assert model.state_dict().keys() == MPViT("tiny").state_dict().keys()
    model = MPViT(SMALL, mlp_ratio=(1, 2, 3, 4))
    widths = [stage.mhca_blks[0].MHCA_layers[0].mlp.fc1.out_features for stage in model.mhca_stages]
    assert widths == [16, 48, 120, 192]
    with pytest.raises(ValueError, match="mlp_ratio must be one number or four"):
        MPViT(SMALL, mlp_ratio=(2, 4))


def test_arch_is_the_entry_name():
    with pytest.raises(ValueError, match="arch must be one of tiny, xsmall, small, base"):
        MPViT("large")
    with pytest.raises(ValueError, match="multiples of 8"):
        MPViT(dict(SMALL, widths=(16, 24, 40, 50)))
    with pytest.raises(TypeError, match="arch"):
        build_backbone(dict(type="mpvit_tiny", arch="base"))


def test_two_norms_in_one_process():
    models = [
        MPViT(SMALL, norm_cfg=dict(type=kind, requires_grad=True)) for kind in ("BN", "SyncBN")
    ]
    for model, kind in zip(models, (nn.BatchNorm2d, nn.SyncBatchNorm), strict=True):
        norms = [m for m in model.modules() if isinstance(m, (nn.BatchNorm2d, nn.SyncBatchNorm))]
        assert len(norms) == 2 + 8 + 4 * 4 and all(isinstance(norm, kind) for norm in norms)
    assert models[0].state_dict().keys() == models[1].state_dict().keys()


def test_initialisation():
    torch.manual_seed(0)
    model = MPViT("base")
    embed = model.patch_embed_stages[3].patch_embeds[1].patch_conv
    local = model.mhca_stages[3].InvRes
    layer = model.mhca_stages[3].mhca_blks[0].MHCA_layers[0]
    for weight, std in (
        (model.stem[1].conv.weight, (2 / (9 * 128)) ** 0.5),
        (embed.dwconv.weight, (2 / (9 * 480)) ** 0.5),
        (embed.pwconv.weight, (2 / 480) ** 0.5),
        (local.dwconv.weight, (2 / 9) ** 0.5),
        (local.conv1.conv.weight, (2 / 480) ** 0.5),
        (layer.mlp.fc1.weight, 0.02),
    ):
        assert weight.std().item() == pytest.approx(std, rel=0.05)
    assert not layer.factoratt_crpe.qkv.bias.any()
