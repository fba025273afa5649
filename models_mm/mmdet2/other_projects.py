"""Configs of other mmdet projects, used from where they lie and as they were written.

* A ``_base_`` file that the project's folder does not have is mmdet's of the same name, or ours.
* The runner and optimizer hook of the apex years, which Swin's detection and what came from it
  (DFvT, ConvNeXt, CSWin, PVT, ...) have in every config, mean what they meant there.
* Of two pretrained files, the one that was inherited from a ResNet gives way.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mmcv import Config

from models_mm.errors import UserError
from models_mm.messages import say_once

RUNNERS = {"EpochBasedRunnerAmp": "EpochBasedRunner", "IterBasedRunnerAmp": "IterBasedRunner"}
# DistOptimizerHook's own: how gradients travel, which is DDP's business today
WITHOUT_EFFECT = ("coalesce", "bucket_size_mb")


@contextmanager
def known_bases(folders: Sequence[Path]) -> Iterator[None]:
    """Let mmcv find a config's missing base files in other folders of configs, the first first."""
    original = Config._file2dict

    def file2dict(filename, *args, **kwargs):
        if not os.path.isfile(filename):
            filename = _known_base(filename, folders)
        return original(filename, *args, **kwargs)

    Config._file2dict = staticmethod(file2dict)
    try:
        yield
    finally:
        Config._file2dict = staticmethod(original)


def _known_base(missing: str, folders: Sequence[Path]) -> str:
    """The base file of the same name in one of the folders; the name itself if there is none."""
    parts = Path(missing).parts
    if "_base_" in parts:
        start = len(parts) - 1 - parts[::-1].index("_base_")
    else:  # another detector's config, in a folder of its kind
        start = -2
    for folder in folders:
        found = folder.joinpath(*parts[start:])
        if found.is_file():
            say_once(f"config: {os.path.normpath(missing)} does not exist; taking {found}")
            return str(found)
    return missing


def translate(cfg: Config) -> None:
    """Replace the names of the apex years by today's, in place.

    Raises:
        UserError: a setting of ``DistOptimizerHook`` that it never had.
    """
    runner = cfg.get("runner") or {}
    if runner.get("type") in RUNNERS:
        runner.type = RUNNERS[runner.type]
    hook = cfg.get("optimizer_config") or {}
    if hook.get("type") == "DistOptimizerHook":
        settings = {key: value for key, value in hook.items() if key not in WITHOUT_EFFECT}
        del settings["type"]
        half = settings.pop("use_fp16", False)
        known = {"grad_clip": None, "update_interval": 1}
        if unknown := sorted(set(settings) - set(known)):
            raise UserError(f"optimizer_config: DistOptimizerHook has no {', '.join(unknown)}")
        settings = {**known, **settings}
        cfg.optimizer_config = dict(grad_clip=settings["grad_clip"])
        if settings["update_interval"] != 1:
            cfg.optimizer_config["cumulative_iters"] = settings["update_interval"]
        if half and not isinstance(cfg.get("fp16"), dict):  # such configs also say fp16 = None
            cfg.fp16 = dict(loss_scale="dynamic")


def settle_pretrained(model: dict) -> None:
    """Drop what a config inherited: ``pretrained`` of the detector or ``init_cfg`` of its backbone.

    mmdet's bases have had torchvision's ResNet in the one place or the other, and a config that
    names its own file in the other place leaves both.
    """
    backbone = model.get("backbone")
    if not isinstance(backbone, dict):
        return
    if "torchvision://" in str(model.get("pretrained")) and backbone.get("init_cfg"):
        model["pretrained"] = None
    elif isinstance(model.get("pretrained"), str) and "torchvision://" in str(
        backbone.get("init_cfg")
    ):
        backbone["init_cfg"] = None
