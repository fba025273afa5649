"""KernelWarehouse's networks: their plans, their direct formulation, and their peculiarities."""

import json

import pytest
import torch
from mmdet.models import build_backbone
from torch import nn

from models_mm.backbones import KW_MobileNetV2, KW_ResNet

from ..direct.kernelwarehouse import Direct
from .golden import GOLDEN, build, fill_weights, images

NAMES = ["kw1x_resnet50", "kw4x_resnet50", "kw1x_mobilenetv2", "kw4x_mobilenetv2"]
NAMES += ["kw1x_convnext_t"]
# what rounding makes of float64 in these networks: see the contract's tolerances
TOLERANCES = {"kw1x_mobilenetv2": 1e-6, "kw4x_mobilenetv2": 1e-8, "kw1x_resnet50": 1e-8}


def described(model) -> str:
    """The plan as tests/golden/*.plan.txt write it."""
    lines = []
    for number, warehouse in enumerate(model.warehouse_manager.plan):
        co, ci, *spatial = warehouse.cell
        assert spatial == [1, 1]
        assert model.warehouse_manager.weights[number].shape == (warehouse.cells, *warehouse.cell)
        layers = [
            f"{layer.shape.path} ({layer.mixtures}@{layer.first}; "
            f"{model.get_submodule(layer.shape.path).attention.fc1.out_features})"
            for layer in warehouse.layers
        ]
        lines.append(f"{warehouse.cells} ({co}, {ci}): {'; '.join(layers)}\n")
    return "".join(lines)


@pytest.mark.parametrize("name", NAMES)
def test_plan_is_the_published_one(name):
    assert described(build_backbone(dict(type=name))) == (GOLDEN / f"{name}.plan.txt").read_text()


def results(function, model, x):
    """Outputs, and the gradients of the input and of every parameter that learns."""
    x = x.clone().requires_grad_()
    outs = function(x)
    total = sum(
        (out * torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)).sum()
        for out in outs
    )
    learning = [p for p in model.parameters() if p.requires_grad]
    return [*outs, *torch.autograd.grad(total, [x, *learning])]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "kw1x_mobilenetv2",
        pytest.param("kw1x_resnet50", marks=pytest.mark.slow),
        pytest.param("kw1x_convnext_t", marks=pytest.mark.slow),
    ],
)
def test_outputs_and_gradients_are_those_of_the_direct_formulation(name, training):
    model = fill_weights(build(name, drop_path_rate=0.0)).train(training)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            # Of two images it is close to a step, and rounding (an image changed by 1e-15) comes
            # out of the network as large as the features.
            module.eval()
    x = images(2, 3, 67, 97)
    actual = results(model, model, x)
    statistics = {k: v.clone() for k, v in model.state_dict().items() if "running" in k}
    fill_weights(model)
    expected = results(Direct(model), model, x)
    outs = len(model.out_channels)
    tolerance = TOLERANCES.get(name, 1e-10)
    # the largest gradient gives the measure: some are sums that cancel
    largest = max(gradient.abs().max() for gradient in expected[outs:])
    for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert a.shape == e.shape
        assert (a - e).abs().max() <= tolerance * (e.abs().max() if i < outs else largest)
    for key, value in statistics.items():
        assert torch.allclose(value, model.state_dict()[key], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["kw1x_resnet50", "kw4x_mobilenetv2", "kw1x_convnext_t"])
@torch.inference_mode()
def test_images_of_a_batch_do_not_meet(name):
    model = fill_weights(build(name)).eval()
    x = images(2, 3, 64, 97)
    alone = [torch.cat(outs) for outs in zip(model(x[:1]), model(x[1:]), strict=True)]
    for a, e in zip(model(x), alone, strict=True):
        assert (a - e).abs().max() <= 1e-8 * e.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("depth", [18, 34, 101, 152])
def test_other_depths(depth):
    model = KW_ResNet(depth, norm_eval=True)
    outs = model.train()(torch.randn(1, 3, 64, 33))
    strides = [4, 8, 16, 32]
    assert [out.shape[1:] for out in outs] == [
        (channels, -(-64 // s), -(-33 // s))
        for channels, s in zip(model.out_channels, strides, strict=True)
    ]
    sum(out.mean() for out in outs).backward()
    learning = [k for k, p in model.named_parameters() if p.requires_grad]
    assert [k for k in learning if model.get_parameter(k).grad is None] == []
    assert model.out_channels[-1] == (512 if depth < 50 else 2048)


@pytest.mark.parametrize("name", ["kw1x_resnet50", "kw1x_mobilenetv2"])
def test_norm_eval_covers_the_attentions(name):
    model = build(name, norm_eval=True).train()
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d)
    norms = [m for m in model.modules() if isinstance(m, kinds)]
    assert {type(m) for m in norms} == set(kinds) and not any(m.training for m in norms)
    model(images(1, 3, 33, 33))  # a batch of one image, which norms in training mode refuse


@pytest.mark.parametrize("name", ["kw1x_resnet50", "kw1x_mobilenetv2"])
def test_cells_learn_through_frozen_stages(name):
    """As published: attentions and norms of frozen stages are fixed, their kernels are not."""
    model = fill_weights(build(name, frozen_stages=1, norm_eval=True)).train()
    sum(out.sum() for out in model(images(2, 3, 65, 65))).backward()
    assert all(cells.grad.any() for cells in model.warehouse_manager.weights)


@pytest.mark.parametrize("cls", [KW_ResNet, KW_MobileNetV2])
def test_the_classifier_may_be_left_out(cls):
    without = [key for key in cls(num_classes=None).state_dict() if key[:2] in ("fc", "cl")]
    assert not without
    with_one = cls(num_classes=7)
    classifier = with_one.fc if cls is KW_ResNet else with_one.classifier
    assert classifier.out_features == 7


@pytest.mark.parametrize("name", ["convnext_t", "kw1x_convnext_t"])
def test_images_that_convnext_cannot_see(name):
    with pytest.raises(ValueError, match="images of 31x64 pixels are too small"):
        build(name)(images(1, 3, 31, 64))
    with pytest.raises(ValueError, match="needs 8 a side for the output of stage 1"):
        build(name, out_indices=(0, 1))(images(1, 3, 9, 7))


def test_layer_scale():
    for name, shape in (("convnext_t", (96,)), ("kw1x_convnext_t", (1, 96, 1, 1))):
        gamma = build_backbone(dict(type=name)).stages[0][0].gamma
        assert gamma.shape == shape and (gamma == 1e-6).all()
        assert not any("gamma" in k for k in build(name, layer_scale_init_value=0).state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_parameters_of_the_published_table(name):
    """Millions in all and in warehouses."""
    published = {
        "kw1x_resnet50": (28052310, 23425024),
        "kw4x_resnet50": (102015144, 93700096),
        "kw1x_mobilenetv2": (5168146, 2189760),
        "kw4x_mobilenetv2": (11379382, 8759040),
        "kw1x_convnext_t": (38603018, 27756000),
    }
    model = build_backbone(dict(type=name))
    counts = [sum(p.numel() for p in m.parameters()) for m in (model, model.warehouse_manager)]
    assert tuple(counts) == published[name]
    assert counts[0] == json.loads((GOLDEN / f"{name}.json").read_text())["parameters"]


def test_pretrained_or_init_cfg():
    model = KW_ResNet(18, pretrained="a.pth")
    assert model.init_cfg == dict(type="Pretrained", checkpoint="a.pth")
    with pytest.raises(ValueError, match="not both"):
        KW_ResNet(18, pretrained="a.pth", init_cfg=dict(type="Pretrained", checkpoint="a.pth"))


def test_unknown_depth():
    with pytest.raises(ValueError, match="depth must be one of 18, 34, 50, 101, 152, got 20"):
        KW_ResNet(20)
