"""Measure backbones and detectors side by side in one run: time, peak memory, FLOPs, parameters.

    python tools/benchmark.py recnext_m3 recnext_m3:fused --shape 512 512
    python tools/benchmark.py configs/recnext/mask_rcnn_recnext_m3_fpn_1x_coco.py --shape 800 1344
    python tools/benchmark.py biformer_s:direct biformer_s --batch 2 --mode infer train

A target is a config (the whole detector) or the registered name of a backbone; ``:fused`` folds its
norms for inference, ``:compiled`` gives it to torch.compile, ``:direct`` is its equations as they
stand, where tools/direct/ has them.
Candidates are timed in turn, round after round, so that whatever else the machine does meets all of
them alike; the ratio is the median over rounds of (time of the first / time of this one): above 1
is faster.
Weights and inputs are random. FLOPs are multiply-adds, as detection papers count them, by
torch.utils.flop_counter. Peak memory is what a fresh process needs beyond the model: allocated
memory on a GPU, resident memory on the CPU.
"""

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import _checkout  # noqa: F401  isort: skip
import models_mm  # noqa: F401  isort: skip  (before mmdet, which does not import without it)
import torch
from mmdet.core import BitmapMasks
from mmdet.models import BACKBONES, build_backbone, build_detector
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from models_mm.cli.command import Parser, run
from models_mm.errors import UserError, did_you_mean
from models_mm.mmdet2.building import built
from models_mm.mmdet2.configs import load_config
from models_mm.mmdet2.inference import usable
from models_mm.outputs import refuse_input
from models_mm.values import output_file, whole_option

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MODES = ("infer", "train")
TOOLS = Path(__file__).resolve().parent


def attention_flops(q, k, v, *_, **__) -> int:
    """Operations of a fused attention, from the shapes of its operands."""
    return sdpa_flop_count(q, k, v)


# PyTorch counts the fused attention of GPUs only.
FUSED_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops,
}


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
        if variants not in ([], ["fused"], ["direct"], ["compiled"]):
            raise UserError(f"{target}: the variants of a target are :fused, :direct, :compiled")
        self.args, self.fused = args, variants == ["fused"]
        self.is_detector = name.endswith(".py")
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
        if name.endswith(".py"):
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
        if BACKBONES.get(name) is None or not (TOOLS / "direct" / f"{family}.py").is_file():
            raise UserError(f"{name}:direct: tools/direct/ knows no backbone of that name")
        return importlib.import_module(f"direct.{family}").build(name)

    def _autocast(self):
        dtype = DTYPES[self.args.dtype]
        return torch.autocast(self.args.device, dtype, enabled=dtype != torch.float32)

    def infer(self) -> None:
        """One inference of the batch."""
        self.model.eval()
        with torch.inference_mode(), self._autocast():
            if self.is_detector:
                self.model.simple_test(self.image, self._metas(), rescale=False)
            else:
                self.model(self.image)

    def train(self) -> None:
        """Forward, backward and nothing else: optimisers do not differ between candidates."""
        self.model.train()
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
        """Eight boxes an image, with masks if the detector learns them."""
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
        forward = self.model.forward_dummy if self.is_detector else self.model
        with (
            torch.no_grad(),
            FlopCounterMode(display=False, custom_mapping=FUSED_ATTENTION) as counter,
        ):
            forward(self.image[:1])
        return counter.get_total_flops() / 2e9

    def parameters(self) -> float:
        """Parameters in millions."""
        return sum(p.numel() for p in self.model.parameters()) / 1e6


def synchronise(device: str) -> None:
    """Wait for the device, so that a clock read afterwards tells the truth."""
    if device != "cpu":
        torch.cuda.synchronize()


def measure_times(candidates: list[Candidate], mode: str, args) -> dict[str, list[float]]:
    """Seconds of each round for each candidate, taken in turn after two rounds of warm-up."""
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
    """MB that one call needs beyond the model; meant for a fresh process."""
    if args.device != "cpu":
        base = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        getattr(candidate, mode)()
        return (torch.cuda.max_memory_allocated() - base) / 2**20
    base = resident("VmRSS")
    getattr(candidate, mode)()
    return resident("VmHWM") - base


def peak_memory_in_fresh_process(target: str, mode: str) -> float:
    """:func:`peak_memory` of a target, asked of a new process with the same arguments."""
    command = [sys.executable, os.path.abspath(__file__), *sys.argv[1:]]
    done = subprocess.run(
        [*command, "--peak-of", target, mode], check=True, stdout=subprocess.PIPE, text=True
    )
    return float(done.stdout.splitlines()[-1])


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("targets", nargs="+", help="config or backbone, [:fused|:direct|:compiled]")
    side, count = whole_option(1, 10_000), whole_option(1, 4096)
    parser.add_argument("--shape", type=side, nargs=2, default=(512, 512), metavar=("H", "W"))
    parser.add_argument("--batch", type=count, default=1)
    parser.add_argument("--mode", choices=MODES, nargs="+", default=["infer"])
    parser.add_argument("--rounds", type=count, default=15)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="by autocast")
    parser.add_argument("--threads", type=count, help="CPU threads (default: all cores)")
    parser.add_argument("--no-memory", action="store_true", help="skip peak memory (it is slow)")
    parser.add_argument(
        "--out", type=output_file, metavar="FILE.json", help="write the figures there too"
    )
    parser.add_argument("--peak-of", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure and print a table."""
    args = parse_args()
    usable(args.device)
    repeated = {target for target in args.targets if args.targets.count(target) > 1}
    if repeated:
        raise UserError(f"given twice: {', '.join(sorted(repeated))}")
    torch.set_num_threads(args.threads or os.cpu_count() or 1)
    if args.peak_of:
        target, mode = args.peak_of
        print(peak_memory(Candidate(target, args), mode, args))
        return
    if args.out:
        refuse_input(args.out, [target.partition(":")[0] for target in args.targets])
    candidates = [Candidate(target, args) for target in args.targets]
    rows = [dict(name=c.name, params=c.parameters(), gflops=c.flops()) for c in candidates]
    for mode in args.mode:
        able = [c for c in candidates if mode == "infer" or not c.fused]
        times = measure_times(able, mode, args)
        first = times[able[0].name]
        for row in rows:
            if row["name"] not in times:
                continue
            own = times[row["name"]]
            row[f"{mode} ms"] = 1e3 * statistics.median(own)
            row[f"{mode} ratio"] = statistics.median(a / b for a, b in zip(first, own, strict=True))
            if not args.no_memory:
                row[f"{mode} MB"] = peak_memory_in_fresh_process(row["name"], mode)
    show(rows, args)
    if args.out:
        with open(args.out, "w") as file:
            json.dump(dict(settings=vars(args), rows=rows), file, indent=1)


def show(rows: list[dict], args: argparse.Namespace) -> None:
    """Print the figures as a table."""
    print(
        f"{args.batch}x3x{args.shape[0]}x{args.shape[1]}, {args.dtype}, {args.device}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, {args.rounds} rounds"
    )
    columns = [column for column in rows[0] if column != "name"]
    width = max(len(row["name"]) for row in rows)
    heads = {"params": "params M", "gflops": "GFLOPs"}
    print(" " * width, *(f"{heads.get(column, column):>11}" for column in columns))
    for row in rows:
        cells = (f"{row[c]:11.2f}" if c in row else f"{'-':>11}" for c in columns)
        print(f"{row['name']:{width}}", *cells)


if __name__ == "__main__":
    run(main)
