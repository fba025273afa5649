"""Published detectors with random weights that find objects."""

import re
from pathlib import Path

import numpy as np
import torch

import models_mm  # isort: skip
from mmdet.apis import inference_detector
from mmdet.models import build_detector
from torch import nn

from models_mm.backbones.biformer import QKV
from models_mm.cli import export
from models_mm.data.demo import draw_scene
from models_mm.deployment.exported import ExportedModel
from models_mm.deployment.preprocessing import graph_inputs
from models_mm.layers.warehouse import Attention
from models_mm.mmdet2.configs import load_config
from models_mm.mmdet2.export import plain_form, trace
from models_mm.mmdet2.inference import Detector
from models_mm.mmdet2.parity import Difference, Tolerance, compare, photos_of

from .tables import BY_MAPS

NAME = re.compile(r"(mask_rcnn|faster_rcnn|cascade_mask_rcnn|retinanet)_(\w+)_fpn_1x_coco")
NAMES = [name for name in models_mm.list_configs() if NAME.fullmatch(name)]
SCALE = (256, 192)
EXACT = 1e-4  # what maps may differ, as a fraction of their largest value
SMALL = {"data.test.pipeline.1.img_scale": SCALE}
# The last layers of heads: standard deviation and mean of what they are to compute.
LAST = {
    "rpn_cls": (1.0, 0.0),
    "rpn_reg": (0.3, 0.0),
    "retina_cls": (1.0, -3.0),
    "retina_reg": (0.3, 0.0),
    "fc_cls": (2.0, 0.0),
    "fc_reg": (1.0, 0.0),
    "conv_logits": (2.0, 0.0),
}


def export_random(name: str, folder: Path) -> list[Difference]:
    """Export a published detector with random weights, and compare both on drawn photos."""
    weights, out = str(folder / "weights.pth"), str(folder / "detector.onnx")
    write_weights(name, weights)
    scale = "data.test.pipeline.1.img_scale=({},{})".format(*SCALE)
    export.main([name, weights, "--out", out, "--cfg-options", scale])
    detector = Detector(name, weights, "cpu", overrides=SMALL)
    exported = ExportedModel(out, ["cpu"])
    found = []
    for photo in photos_of([]):
        (row,) = compare(detector, exported, [photo])
        if not row.within(Tolerance()) and maps_differ(detector, exported, photo[1]) <= EXACT:
            row = row._replace(photo=row.photo + BY_MAPS)
        found.append(row)
    return found


class Maps(nn.Module):
    """Images (N, 3, H, W) to the maps of the neck and the outputs of the dense head."""

    def __init__(self, detector: nn.Module):
        super().__init__()
        self.backbone, self.neck = detector.backbone, detector.neck
        self.head = detector.rpn_head if detector.with_rpn else detector.bbox_head

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        maps = self.neck(self.backbone(images))
        return [*maps, *(x for by_level in self.head(maps) for x in by_level)]


def maps_differ(detector: Detector, exported: ExportedModel, photo: np.ndarray) -> float:
    """How much maps and head outputs differ from PyTorch's, as a fraction of the largest value.

    Random features are almost the same everywhere. Heads that spread them to different scores
    amplify roundings, and objects may differ although no map does.
    """
    import onnxruntime

    module, rule = Maps(detector.model).eval(), exported.description
    inputs = map(torch.from_numpy, graph_inputs([photo], rule).values())
    images = plain_form(detector, rule).prepared(*list(inputs)[:2])
    program = torch.onnx.export(trace(module, (images,), None), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    found = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        expected = [x.numpy() for x in module(images)]
    return max(
        float(np.abs(x - y).max() / np.abs(x).max()) for x, y in zip(expected, found, strict=True)
    )


def write_weights(name: str, file: str) -> None:
    """Write random weights of a published detector, whose scores are spread between 0 and 1.

    Most random weights give many objects the score 1, and chance orders them. The maps of some
    networks vanish, layer by layer; mixtures of kernels that depend on the image alone amplify
    every rounding a thousand times; and regions that look all alike are chosen by roundings.
    Weights that have been trained do none of these.
    """
    cfg = load_config(name, SMALL)
    cfg.model.backbone.init_cfg = cfg.model.train_cfg = None
    torch.manual_seed(0)
    model = build_detector(cfg.model).eval()
    model.cfg = cfg
    photo, _ = draw_scene(np.random.default_rng(1), 192, 256, 6, crowd=False)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            normalise(layer)
        if isinstance(layer, Attention):
            nn.init.normal_(layer.fc2.bias, std=3)
        if isinstance(layer, QKV):
            spread(layer.qkv, 1.0, 0.0)
    inference_detector(model, photo)
    for path, layer in model.named_modules():
        if path.rpartition(".")[2] in LAST:
            spread(layer, *LAST[path.rpartition(".")[2]])
    inference_detector(model, photo)
    classes = tuple(f"class {label}" for label in range(80))
    torch.save({"meta": {"CLASSES": classes}, "state_dict": model.state_dict()}, file)


def normalise(norm: nn.BatchNorm2d) -> None:
    """Let a batch norm scale its input by one number in its first pass, to a deviation of 1."""

    @torch.no_grad()
    def scale(norm, inputs):
        hook.remove()
        norm.running_var.fill_(inputs[0].square().mean())

    hook = norm.register_forward_pre_hook(scale)


def spread(layer: nn.Module, deviation: float, mean: float) -> None:
    """Scale each channel of a layer in its first pass, for the statistics of its output.

    The features of random weights are almost the same everywhere.
    """

    @torch.no_grad()
    def scale(layer, inputs, output):
        hook.remove()
        channels = 1 if isinstance(layer, nn.Conv2d) else -1
        values = output.movedim(channels, 0).flatten(1)  # (C, N H W)
        factor = deviation / values.std(1)
        layer.weight.mul_(factor.view(-1, *(1,) * (layer.weight.dim() - 1)))
        layer.bias.copy_(mean - (values.mean(1) - layer.bias) * factor)
        return layer.forward(*inputs)

    hook = layer.register_forward_hook(scale)
