"""Show that a change of the code changes no number: digests of short trainings, before and after.

    python -m tests.equality record before.json     in a checkout of the code before
    python -m tests.equality record after.json      in one of the code after
    python -m tests.equality compare before.json after.json

Two processes, a fixed seed, 20 iterations: of one config per family with small images, and of the
demo's small detector with everything that a training can do besides. Recorded are every loss, the
gradients of every iteration on each rank, the final weights and the state of the optimizer, the
keys of the checkpoints and of the log, and the names of all files.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from tests.drawn import data_options, draw, draw_coco
from tests.equality.digests import digest

ROOT = Path(__file__).resolve().parent.parent.parent
ITERATIONS = 20
FAMILIES = {
    "biformer": "configs/biformer/mask_rcnn_biformer_s_fpn_1x_coco.py",
    "recnext_m": "configs/recnext/mask_rcnn_recnext_m3_fpn_1x_coco.py",
    "recnext_a": "configs/recnext/mask_rcnn_recnext_a3_fpn_1x_coco.py",
    "mpvit": "configs/mpvit/retinanet_mpvit_tiny_fpn_1x_coco.py",
    "dfvt": "configs/dfvt/mask_rcnn_dfvt_t_fpn_1x_coco.py",
    "kernelwarehouse": "configs/kernelwarehouse/faster_rcnn_kw1x_resnet50_fpn_1x_coco.py",
}
DEMO = "configs/demo/mask_rcnn_recnext_tiny_fpn_demo.py"
# what a training can do: settings as a config file has them
FEATURES = {
    "plain": "",
    "everything": """
ema = dict(momentum=0.01, interval=2)
optimizer_config = dict(_delete_=True, grad_clip=dict(max_norm=1.0), cumulative_iters=5)
checkpoint_config = dict(interval=1, iterations=4, max_keep_ckpts=2)
evaluation = dict(interval=1, metric=['bbox', 'segm'], save_best='bbox_mAP')
""",
    "iterations": """
runner = dict(_delete_=True, type='IterBasedRunner', max_iters=20)
ema = dict(momentum=0.01)
checkpoint_config = dict(interval=7, by_epoch=False)
evaluation = dict(interval=10, metric='bbox')
""",
    "workflow": "workflow = [('train', 1), ('val', 1)]\n",
    "bfloat16": "amp = 'bfloat16'\n",
    "hooks": """
custom_hooks = [dict(type='DigestHook', priority='LOWEST'),
                dict(type='ExpMomentumEMAHook', momentum=0.1, priority=49)]
optimizer_config = dict(_delete_=True, type='GradientCumulativeOptimizerHook', cumulative_iters=2)
momentum_config = dict(policy='CosineAnnealing', min_momentum_ratio=0.5)
evaluation = dict(interval=1, start=0, metric='bbox')
""",
    "skipping": """
faults = dict(nonfinite_loss='skip')
custom_hooks = [dict(type='DigestHook', priority='LOWEST'),
                dict(type='SpoilBatchHook', iterations=[3, 7])]
lr_config = dict(_delete_=True, policy='CosineAnnealing', min_lr=0, by_epoch=False)
""",
}
HEAD = """
_base_ = ['{base}']
custom_imports = dict(imports=['models_mm', 'digests'], allow_failed_imports=False)
custom_hooks = [dict(type='DigestHook', priority='LOWEST')]
log_config = dict(interval=1, hooks=[dict(type='TextLoggerHook')])
"""
SMALL = """
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask={masks}),
    dict(type='Resize', img_scale=(192, 128), keep_ratio=True),
    dict(type='RandomFlip', flip_ratio=0.5),
    dict(type='Normalize', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
         to_rgb=True),
    dict(type='Pad', size_divisor=32),
    dict(type='DefaultFormatBundle'),
    dict(type='Collect', keys=['img', 'gt_bboxes', 'gt_labels'{keys}]),
]
data = dict(samples_per_gpu=1, workers_per_gpu=1, train=dict(pipeline=train_pipeline))
evaluation = dict(interval=100)
"""


def record(out: Path, only: str) -> None:
    """Run all trainings in this checkout, and write what came out."""
    found = json.loads(out.read_text()) if out.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        coco = draw_coco(Path(folder) / "coco", train=2 * ITERATIONS, val=4)
        demo = draw(Path(folder) / "demo", train=24, val=6)
        jobs = {name: (base, coco, "") for name, base in FAMILIES.items()}
        jobs |= {f"demo {name}": (DEMO, demo, text) for name, text in FEATURES.items()}
        for name, (base, data, text) in jobs.items():
            if re.search(only, name):
                found[name] = train(Path(folder) / name.replace(" ", "_"), base, data, text)
                out.write_text(json.dumps(found, indent=1))
                print(f"{name}: {float.fromhex(found[name]['losses'][0][-1]):.6f}", flush=True)


def train(work: Path, base: str, data: Path, text: str) -> dict:
    """One training in two processes, and its digests."""
    work.mkdir()
    config = work / "config.py"
    content = HEAD.format(base=ROOT / base)
    if base != DEMO:
        masks = "mask_rcnn" in base
        content += SMALL.format(masks=masks, keys=", 'gt_masks'" if masks else "")
    config.write_text(content + text)
    length = ["runner.max_epochs=2" if base == DEMO else "runner.max_epochs=1"]
    if "IterBasedRunner" in text:
        length = []
    elif "mpvit" in base:  # its recipe counts iterations
        length = [f"runner.max_iters={ITERATIONS}"]
    options = [o for o in data_options(data) if not o.startswith("runner.")]
    if base != DEMO:
        options.append("model.backbone.init_cfg=None")
        if "kernelwarehouse" in base or "dfvt" in base:
            options.append("model.pretrained=None")
    command = ["bash", "dist_train.sh", str(config), "2", "--seed", "0", "--work-dir"]
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]),
        "DIGESTS": str(work),
    }
    done = subprocess.run(
        [*command, str(work / "run"), *options, *length],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return outcome(work)


def outcome(work: Path) -> dict:
    """What a training has left."""
    lines = [json.loads(line) for line in next((work / "run").glob("*.log.json")).open()]
    times = ("time", "data_time", "memory")
    log = [{k: v for k, v in line.items() if k not in times} for line in lines[1:]]
    checkpoints = {}
    for path in sorted((work / "run").glob("*.pth")):
        content = torch.load(path, weights_only=True)
        checkpoints[path.name] = {
            "keys": sorted(content),
            "meta": sorted(content["meta"]),
            **{key: digest(content[key]) for key in ("state_dict", "optimizer")},
            "progress": digest(
                {k: v for k, v in content.get("progress", {}).items() if k != "random_states"}
            ),
            "random_states": digest((content.get("progress") or {}).get("random_states")),
        }
    names = sorted(re.sub(r"\d{8}_\d{6}", "TIME", path.name) for path in (work / "run").iterdir())
    ranks = [json.loads((work / f"rank_{rank}.json").read_text()) for rank in range(2)]
    return {
        "losses": [rank["losses"] for rank in ranks],
        "gradients": [rank["gradients"] for rank in ranks],
        "log": log,
        "checkpoints": checkpoints,
        "files": names,
    }


def compare(before: Path, after: Path) -> None:
    """Print a line for each training; exit with 1 when anything differs."""
    first, second = json.loads(before.read_text()), json.loads(after.read_text())
    differs = False
    for name, old in first.items():
        new = second.get(name, {})
        found = [key for key in old if old[key] != new.get(key)]
        steps = len(old["gradients"][0])
        print(f"{name}: {steps} iterations, {', '.join(found) + ' differ' if found else 'equal'}")
        differs |= bool(found)
    sys.exit(differs)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("record")
    command.add_argument("out", type=Path)
    command.add_argument("--only", default="", help="regular expression of the names")
    command = commands.add_parser("compare")
    command.add_argument("before", type=Path)
    command.add_argument("after", type=Path)
    args = parser.parse_args()
    if args.command == "record":
        record(args.out, args.only)
    else:
        compare(args.before, args.after)


if __name__ == "__main__":
    main()
