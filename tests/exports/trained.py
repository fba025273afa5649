"""Train detectors on drawn data, export them, and compare both on photos.

    python -m tests.exports.trained --photos FOLDER --out work_dirs/exports

The folders have at least 20 photos together. There are three sizes and batches of one and two, and
photos without any object among them. Each detector gets a row of the table; a training that has
ended is not repeated. The exit code is 1 if a detector is not equal.
"""

import argparse
import dataclasses
import sys
import time
from pathlib import Path

import numpy as np

import models_mm
from models_mm.cli import demo, export
from models_mm.data.demo import draw_scene
from models_mm.data.inputs import batches
from models_mm.deployment.exported import ExportedModel
from models_mm.mmdet2.configs import load_config
from models_mm.mmdet2.inference import Detector
from models_mm.mmdet2.parity import Difference, compare, photos_of
from tests.exports.detectors import write_weights
from tests.exports.tables import HEAD, row

NAMES = (
    *("mask_rcnn_recnext_m3", "retinanet_recnext_a3", "faster_rcnn_mpvit_tiny"),
    *("cascade_mask_rcnn_dfvt_t", "retinanet_biformer_s", "mask_rcnn_kw1x_mobilenetv2"),
    *("faster_rcnn_kw1x_resnet50", "cascade_mask_rcnn_mpvit_xsmall", "mask_rcnn_biformer_s"),
    "retinanet_kw1x_convnext_t",
)
RATES = {"AdamW": 5e-4, "SGD": 0.01}  # higher than the recipes': there are few epochs
SCALES = ((256, 192), (384, 288), (512, 384))  # of the resized photos
EMPTY = 3  # drawn photos without any object


def trained(name: str, data: Path, folder: Path, epochs: int) -> tuple[str, str]:
    """Config and checkpoint of a detector that has been trained on drawn data."""
    if not (folder / "results.json").exists():
        start = "scratch"
        if "_kw" in name:
            # Norms of one number per channel and image choose its kernels. From a checkpoint they
            # are frozen, as published; statistics of two drawn images amplify all roundings.
            start = str(folder.with_suffix(".pth"))
            write_weights(f"{name}_fpn_1x_coco", start)
        cfg = load_config(f"{name}_fpn_1x_coco")
        heads = (cfg.model.train_cfg or {}).get("rcnn") or []
        for head in heads if isinstance(heads, list) else [heads]:
            head.sampler.num = 64  # the images are small
        models_mm.train(
            name,
            data,
            out=folder,
            auto_resume=True,
            start=start,
            epochs=epochs,
            size=(160, 128),
            lr=RATES[cfg.optimizer.type],
            cfg_options={"model.train_cfg.rcnn": heads} if heads else None,
        )
    return str(folder / "config.py"), str(folder / "latest.pth")


def differences(
    detector: Detector, exported: ExportedModel, photos: list[tuple[str, np.ndarray]]
) -> list[Difference]:
    """How both differ, in three sizes, one photo at a time and two."""
    rule, found = exported.description, []
    for scale in SCALES:
        exported.description = dataclasses.replace(rule, scale=scale)
        detector.model.cfg.data.test.pipeline[1].img_scale = scale
        for size in (1, 2):
            for batch in batches(photos, size):
                found += compare(detector, exported, batch)
    return found


def main() -> int:
    """Train, export and compare detectors, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m tests.exports.trained", description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--photos", nargs="+", required=True, help="folders or files")
    parser.add_argument("--out", type=Path, default=Path("work_dirs/exports"), help="%(default)s")
    parser.add_argument("--epochs", type=int, default=12, help="%(default)s")
    args = parser.parse_args()
    photos = photos_of(args.photos)
    rng = np.random.default_rng(0)
    photos += [(f"empty {k}", draw_scene(rng, 300, 400, 0, crowd=False)[0]) for k in range(EMPTY)]
    data, wrong = args.out / "drawn", 0
    if not data.exists():
        demo.main([str(data), "--train", "96", "--val", "16", "--size", "160x128"])
    print(HEAD, end="", flush=True)
    for name in args.names:
        begun, folder = time.monotonic(), args.out / name
        try:
            files, out = trained(name, data, folder, args.epochs), str(folder / "detector.onnx")
            export.main([*files, "--out", out])
            detector = Detector(*files, "cpu")
            found = differences(detector, ExportedModel(out, ["cpu"]), photos)
        except Exception as error:
            found = error
        line = row(name, found, time.monotonic() - begun)
        wrong += "| no" in line
        print(line, end="", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
