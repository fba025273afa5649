"""Use configs of other mmdet projects unchanged, in their own folders.

* A ``_base_`` file that the project lacks is replaced by mmdet's file of the same name, or by ours.
* The runner and the optimizer hook for apex, which are in every config of Swin's detection code and
  of projects based on it (DFvT, ConvNeXt, CSWin, PVT, ...), are translated.
* If a config has two pretrained files, the one that it inherited from a ResNet is dropped.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mmcv import Config

from models_mm.errors import UserError
from models_mm.messages import say_once

RUNNERS = {"EpochBasedRunnerAmp": "EpochBasedRunner", "IterBasedRunnerAmp": "IterBasedRunner"}
# Settings of DistOptimizerHook for the reduction of gradients, which DDP does now.
WITHOUT_EFFECT = ("coalesce", "bucket_size_mb")


@contextmanager
def known_bases(folders: Sequence[Path]) -> Iterator[None]:
    """Let mmcv find missing base files of a config in other folders, which are tried in order."""
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
    else:  # the config of another detector: its folder and name
        start = -2
    for folder in folders:
        found = folder.joinpath(*parts[start:])
        if found.is_file():
            say_once(f"config: {os.path.normpath(missing)} does not exist; taking {found}")
            return str(found)
    return missing


def translate(cfg: Config) -> None:
    """Replace the names that belong to apex by current ones, in place.

    Raises:
        UserError: ``DistOptimizerHook`` never had such a setting.
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
        if half and not isinstance(cfg.get("fp16"), dict):  # such configs also have fp16 = None
            cfg.fp16 = dict(loss_scale="dynamic")


def settle_pretrained(model: dict) -> None:
    """Drop the inherited one of ``pretrained`` (detector) and ``init_cfg`` (backbone).

    mmdet's base files name torchvision's ResNet in the one place or the other, depending on the
    version. A config that names its own file in the other place then has both.
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
