"""Measure backbones and detectors side by side in one run: time, peak memory, FLOPs, parameters.

    models_mm benchmark recnext_m3 recnext_m3:fused --shape 512 512
    models_mm benchmark mask_rcnn_recnext_m3_fpn_1x_coco --shape 800 1344
    models_mm benchmark biformer_s:direct biformer_s --batch 2 --mode infer train
    models_mm benchmark detector.onnx CONFIG CHECKPOINT --shape 800 1344

A target is a config (the whole detector) or the registered name of a backbone. ``:fused`` folds its
norms for inference, ``:compiled`` gives it to torch.compile. ``:direct`` is the plain form of its
equations, which a checkout has in tests/direct/ for some families. ``:plain`` is without the faster
forms that models_mm/layers/forms.py has for the device. ``:RULE`` is without one of them, or with
it if the rule is off by default.
The candidates take turns, round after round, so that other work of the machine disturbs all of them
alike. The ratio is the median over the rounds of (time of the first / time of this one): more than
1 is faster.
An exported detector is compared with the one in PyTorch on a drawn photo, everything included from
the photo to the masks; --shape is the size of the photo.
Otherwise weights and inputs are random. FLOPs are multiply-adds, as detection papers count them, by
torch.utils.flop_counter. Peak memory is what a fresh process needs beyond the model: allocated
memory on a GPU, resident memory on the CPU.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

from models_mm.cli.command import Parser, child_environment
from models_mm.deployment.description import is_exported
from models_mm.errors import UserError
from models_mm.values import output_file, whole_option

DTYPES = ("float32", "bfloat16", "float16")
MODES = ("infer", "train")


def parse_args(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("targets", nargs="+", help="config or backbone, and variants")
    side, count = whole_option(1, 10_000), whole_option(1, 4096)
    parser.add_argument("--shape", type=side, nargs=2, default=(512, 512), metavar=("H", "W"))
    parser.add_argument("--batch", type=count, default=1)
    parser.add_argument("--mode", choices=MODES, nargs="+", default=["infer"])
    parser.add_argument("--rounds", type=count, default=15)
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="by autocast")
    parser.add_argument("--threads", type=count, help="CPU threads (default: all cores)")
    parser.add_argument(
        "--openvino", action="store_true", help="also let OpenVINO run the exported detector"
    )
    parser.add_argument("--no-memory", action="store_true", help="skip peak memory (it is slow)")
    parser.add_argument(
        "--out", type=output_file, metavar="FILE.json", help="write the figures there too"
    )
    parser.add_argument("--peak-of", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Measure and print a table.

    Raises:
        UserError: a target that does not exist or is given twice, or a device that is not there.
    """
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    import torch

    from models_mm.mmdet2.benchmark import Candidate, measure_times, peak_memory
    from models_mm.mmdet2.inference import usable
    from models_mm.outputs import refuse_input

    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
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
    if is_exported(args.targets[0]):
        rows = compare_exported(args)
        show(rows, args)
        write_rows(rows, args)
        return
    if args.openvino:
        raise UserError("--openvino is for an exported detector (detector.onnx CONFIG CHECKPOINT)")
    candidates = [Candidate(target, args) for target in args.targets]
    rows = [dict(name=c.name, params=c.parameters(), gflops=c.flops()) for c in candidates]
    for mode in args.mode:
        able = [c for c in candidates if mode == "infer" or not c.fused]
        times = measure_times(able, mode, args)
        first = times[able[0].name]
        for row in rows:
            if row["name"] not in times:
                continue
            row[f"{mode} ms"], row[f"{mode} ratio"] = medians(times[row["name"]], first)
            if not args.no_memory:
                row[f"{mode} MB"] = peak_memory_in_fresh_process(row["name"], mode, argv)
    show(rows, args)
    write_rows(rows, args)


def compare_exported(args: argparse.Namespace) -> list[dict]:
    """The times of an exported detector and of the one in PyTorch, as rows of the table.

    Raises:
        UserError: the command line has no config and checkpoint, or options of other targets.
    """
    from models_mm.mmdet2.benchmark import WholeDetector, measure_times

    if len(args.targets) != 3 or args.mode != ["infer"] or args.dtype != "float32":
        raise UserError(
            "give an exported detector, its config and its checkpoint, in this order, and neither "
            "--mode train nor --dtype"
        )
    if args.device not in ("cpu", "cuda") or (args.openvino and args.device != "cpu"):
        raise UserError(
            f"--device {args.device}: an exported detector is measured on cpu or cuda, and by "
            "OpenVINO on cpu"
        )
    exported, *original = args.targets
    candidates = [WholeDetector(original, args), WholeDetector([exported], args)]
    if args.openvino:
        candidates.append(WholeDetector([exported], args, openvino=True))
    times = measure_times(candidates, "infer", args)
    first, rows = times[candidates[0].name], []
    for name, own in times.items():
        ms, ratio = medians(own, first)
        rows.append(dict(name=name, ms=ms, ratio=ratio))
    return rows


def medians(own: list[float], first: list[float]) -> tuple[float, float]:
    """Milliseconds of the rounds of a candidate, and how many times faster than the first it is."""
    ratio = statistics.median(a / b for a, b in zip(first, own, strict=True))
    return 1e3 * statistics.median(own), ratio


def write_rows(rows: list[dict], args: argparse.Namespace) -> None:
    """Write the figures to the file of ``--out``, if one is given."""
    if args.out:
        with open(args.out, "w") as file:
            json.dump(dict(settings=vars(args), rows=rows), file, indent=1)


def show(rows: list[dict], args: argparse.Namespace) -> None:
    """Print the figures as a table."""
    import torch

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


def peak_memory_in_fresh_process(target: str, mode: str, argv: list[str]) -> float:
    """The peak memory of a target in MB, measured by a new process with the same arguments."""
    command = [sys.executable, "-m", "models_mm", "benchmark", *argv, "--peak-of", target, mode]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=child_environment()
    )
    return float(done.stdout.splitlines()[-1])
