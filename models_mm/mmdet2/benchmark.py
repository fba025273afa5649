"""Backbones and detectors that are measured: their time, memory, FLOPs and parameters."""

import argparse
import functools
import importlib.util
import time
from collections.abc import Callable

import numpy as np
import torch
from mmdet.core import BitmapMasks
from mmdet.models import BACKBONES, build_backbone, build_detector
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from models_mm.config_files import ROOT, is_config
from models_mm.data.demo import draw_scene
from models_mm.deployment.exported import ExportedModel
from models_mm.deployment.preprocessing import graph_inputs
from models_mm.errors import UserError, did_you_mean
from models_mm.layers.forms import RULES, use_forms
from models_mm.mmdet2.building import built
from models_mm.mmdet2.configs import load_config
from models_mm.mmdet2.inference import Detector

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SHOWN = 0.3  # the lowest score of an object that counts
DIRECT = ROOT / "tests/direct"


def attention_flops(q, k, v, *_, **__) -> int:
    """Operations of a fused attention, from the shapes of its operands."""
    return sdpa_flop_count(q, k, v)


# PyTorch counts the fused attention of GPUs only.
FUSED_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops,
}


def multiply_adds(forward: Callable, image: torch.Tensor) -> float:
    """Multiply-adds of a call with one image (1, 3, H, W), in billions."""
    with (
        torch.no_grad(),
        FlopCounterMode(display=False, custom_mapping=FUSED_ATTENTION) as counter,
    ):
        forward(image)
    return counter.get_total_flops() / 2e9


class Candidate:
    """A model ready to be measured: ``infer`` and ``train`` are calls without arguments.

    Args:
        target: ``name[:fused]`` or ``backbone:direct`` as on the command line.
        args: the command line's settings.

    Raises:
        UserError: no such config, backbone or variant.
    """

    def __init__(self, target: str, args: argparse.Namespace):
        torch.manual_seed(0)
        self.name = target
        name, *variants = target.split(":")
        named = {rule: not on for rule, on in RULES.items() if rule in variants}
        self.forms = dict.fromkeys(RULES, False) | named if "plain" in variants else named
        variants = [v for v in variants if v != "plain" and v not in RULES]
        if variants not in ([], ["fused"], ["direct"], ["compiled"]):
            raise UserError(
                f"{target}: the variants of a target are :fused, :direct, :compiled, :plain and, "
                f"for the other form of one operator, :{', :'.join(RULES)}"
            )
        self.args, self.fused = args, variants == ["fused"]
        self.is_detector = is_config(name)
        build = self._build_direct if variants == ["direct"] else self._build
        self.model = build(name).to(args.device)
        if self.fused:
            self.model.eval()
            (self.model.backbone if self.is_detector else self.model).fuse()
        if variants == ["compiled"]:
            (self.model.backbone if self.is_detector else self.model).compile(dynamic=True)
        height, width = args.shape
        self.image = torch.randn(args.batch, 3, height, width, device=args.device)

    @staticmethod
    def _build(name: str) -> nn.Module:
        if is_config(name):
            cfg = load_config(name)
            cfg.model.backbone.init_cfg = None
            return built("model", lambda: build_detector(cfg.model))
        if BACKBONES.get(name) is None:
            hint = did_you_mean(name, BACKBONES.module_dict)
            raise UserError(f"{name}: neither a config (.py) nor the name of a backbone{hint}")
        return built(name, lambda: build_backbone(dict(type=name)))

    @staticmethod
    def _build_direct(name: str) -> nn.Module:
        family = name.partition("_")[0]
        if family.startswith("kw"):  # kw1x, kw4x
            family = "kernelwarehouse"
        file = DIRECT / f"{family}.py"
        if not file.parent.is_dir():
            raise UserError(f"{name}:direct: the direct forms lie in the tests of a checkout")
        if BACKBONES.get(name) is None or not file.is_file():
            raise UserError(f"{name}:direct: tests/direct/ knows no backbone of that name")
        spec = importlib.util.spec_from_file_location(f"direct_{family}", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.build(name)

    def _autocast(self):
        dtype = DTYPES[self.args.dtype]
        return torch.autocast(self.args.device, dtype, enabled=dtype != torch.float32)

    def infer(self) -> None:
        """One inference of the batch."""
        self.model.eval()
        with torch.inference_mode(), self._autocast(), use_forms(**self.forms):
            if self.is_detector:
                self.model.simple_test(self.image, self._metas(), rescale=False)
            else:
                self.model(self.image)

    def train(self) -> None:
        """Forward, backward and nothing else: optimisers do not differ between candidates."""
        self.model.train()
        with use_forms(**self.forms):
            with self._autocast():
                if self.is_detector:
                    losses = self.model.forward_train(self.image, self._metas(), **self._truth())
                    loss, _ = self.model._parse_losses(losses)
                else:
                    loss = sum(out.float().mean() for out in self.model(self.image))
            loss.backward()
        self.model.zero_grad(set_to_none=True)

    def _metas(self) -> list[dict]:
        shape = (*self.args.shape, 3)
        one = {"img_shape": shape, "ori_shape": shape, "pad_shape": shape, "flip": False}
        return [{**one, "scale_factor": [1.0] * 4, "batch_input_shape": shape[:2]}] * len(
            self.image
        )

    def _truth(self) -> dict:
        """Eight boxes per image, with masks if the detector learns them."""
        height, width = self.args.shape
        side = min(height, width) // 8
        corner = torch.arange(8.0) * side
        boxes = torch.stack([corner, corner, corner + 2 * side, corner + 2 * side], 1)
        boxes = boxes.clamp(max=min(height, width)).to(self.args.device)
        labels = torch.arange(8, device=self.args.device) % 80
        count = len(self.image)
        truth = {"gt_bboxes": [boxes] * count, "gt_labels": [labels] * count}
        if self.model.with_mask:
            masks = torch.ones(8, height, width, dtype=torch.uint8).numpy()
            truth["gt_masks"] = [BitmapMasks(masks, height, width)] * count
        return truth

    def flops(self) -> float:
        """Multiply-adds of one image, in billions; a detector with 1000 proposals."""
        self.model.eval()  # attentions with batch norms do not train on one image
        return multiply_adds(
            self.model.forward_dummy if self.is_detector else self.model, self.image[:1]
        )

    def parameters(self) -> float:
        """Parameters in millions."""
        return sum(p.numel() for p in self.model.parameters()) / 1e6


@functools.cache
def openvino_core():
    """The process's ``openvino.Core``.

    There is only one: its CPU plugin gives the process a signal stack, and of two plugins the one
    that ends first frees its own while the other puts that back. The next signal, of a data worker
    that ends for example, then kills the process (OpenVINO 2026.4).

    Raises:
        UserError: OpenVINO is missing.
    """
    try:
        import openvino
    except ImportError as error:
        raise UserError(
            "OpenVINO is not installed: `pip install openvino`, or leave --openvino out"
        ) from error
    return openvino.Core()


class OpenVINOModel(ExportedModel):
    """The file of an exported detector, run by OpenVINO's CPU plugin in float32.

    Raises:
        UserError: OpenVINO is missing.
    """

    def __init__(self, file: str, threads: int | None):
        super().__init__(file, ["cpu"], threads)
        settings = {"INFERENCE_PRECISION_HINT": "f32"}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        self.compiled = openvino_core().compile_model(file, "CPU", settings)

    def run(self, photos: list[np.ndarray]) -> dict[str, np.ndarray]:
        values = self.compiled(graph_inputs(photos, self.description))
        return dict(zip(self.description.outputs, values.values(), strict=True))


class WholeDetector:
    """A detector in PyTorch, or an exported one, from the photo to its objects.

    Args:
        files: config and checkpoint, or an exported detector.
        args: the command line's settings.
        openvino: whether OpenVINO runs the exported detector.
    """

    def __init__(self, files: list[str], args: argparse.Namespace, openvino: bool = False):
        self.name = f"{files[0]} (OpenVINO)" if openvino else files[0]
        if openvino:
            self.detector = OpenVINOModel(files[0], args.threads)
        elif len(files) == 1:
            self.detector = ExportedModel(files[0], [args.device], args.threads)
        else:
            self.detector = Detector(*files, args.device)
        photo, _ = draw_scene(np.random.default_rng(0), *args.shape, objects=5, crowd=False)
        self.photos = [photo] * args.batch

    def infer(self) -> None:
        """Find the objects of the batch."""
        self.detector.results(self.photos, SHOWN)


def synchronise(device: str) -> None:
    """Wait until the device has done its work; a clock that is read afterwards is right."""
    if device != "cpu":
        torch.cuda.synchronize()


def measure_times(candidates: list[Candidate], mode: str, args) -> dict[str, list[float]]:
    """Seconds of each round of each candidate.

    The candidates take turns in each round. Two rounds before the first one warm up.
    """
    times = {candidate.name: [] for candidate in candidates}
    for turn in range(args.rounds + 2):
        for candidate in candidates:
            synchronise(args.device)
            start = time.perf_counter()
            getattr(candidate, mode)()
            synchronise(args.device)
            if turn >= 2:
                times[candidate.name].append(time.perf_counter() - start)
    return times


def resident(field: str) -> float:
    """VmRSS or VmHWM of this process in MB (Linux)."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith(field))
    return int(line.split()[1]) / 1024


def peak_memory(candidate: Candidate, mode: str, args) -> float:
    """MB that one call needs beyond the model; right in a fresh process only."""
    if args.device != "cpu":
        base = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        getattr(candidate, mode)()
        return (torch.cuda.max_memory_allocated() - base) / 2**20
    base = resident("VmRSS")
    getattr(candidate, mode)()
    return resident("VmHWM") - base
