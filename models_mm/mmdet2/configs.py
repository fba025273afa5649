"""Configs: found, read, overridden and checked before anything expensive starts."""

import os
from collections.abc import Iterator
from pathlib import Path

import mmdet
from mmcv import Config
from mmdet.utils import compat_cfg, replace_cfg_vals, update_data_root

from models_mm.catalogue import known
from models_mm.checkpoints.files import is_url, missing_file_message
from models_mm.config_files import ROOT, config_files, find_config, variants
from models_mm.errors import UserError
from models_mm.messages import say_once
from models_mm.mmdet2.backbone_change import change_backbone, published_configs
from models_mm.mmdet2.other_projects import known_bases, settle_pretrained, translate
from models_mm.mmdet2.overrides import apply

LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
MMDET_CONFIGS = Path(mmdet.__file__).parent / ".mim" / "configs"


def load_config(path: str, overrides: dict | None = None) -> Config:
    """Read a config file and apply ``--cfg-options``.

    Args:
        path: relative to the current directory or, failing that, to the project.
        overrides: dotted keys and their values. ``model.backbone.type`` with the name of a
            published backbone puts that one into the config, with all that belongs to it.

    Raises:
        UserError: no such file, a file that does not parse, or what :func:`apply` refuses.
    """
    file = find_config(path)
    try:
        with known_bases((MMDET_CONFIGS, ROOT / "configs")):
            cfg = replace_cfg_vals(_read(file))
        update_data_root(cfg)
    except RecursionError as error:
        raise UserError(f"config {file}: it is its own _base_, or too deep") from error
    except (Exception, SystemExit) as error:  # a config is code: anything can come out of it
        reason = str(error) or str(error.__context__ or "")  # mmcv names no module
        if reason.startswith("No module named"):
            reason += "; PYTHONPATH=. in front of the command finds modules of this folder"
        raise UserError(f"config {file}: {type(error).__name__} {reason}".rstrip()) from error
    if not all(isinstance(cfg.get(part), dict) for part in ("model", "data")):
        raise UserError(
            f"config {file} describes no detector: it needs `model` and `data`, both dicts"
        )
    overrides = dict(overrides or {})
    backbone = overrides.get("model.backbone.type")
    if isinstance(backbone, str) and backbone in variants() and backbone != backbone_type(cfg):
        del overrides["model.backbone.type"]
        published = published_configs(backbone, cfg.model)
        change_backbone(cfg, backbone, *(load_config(str(find_config(n))) for n in published))
    if overrides:
        apply(cfg, overrides)
    translate(cfg)
    settle_pretrained(cfg.model)
    return cfg


def backbone_type(cfg: Config) -> object:
    """The type of the backbone, if there is one."""
    backbone = cfg.model.get("backbone")
    return backbone.get("type") if isinstance(backbone, dict) else None


def _read(file: Path) -> Config:
    try:
        return Config.fromfile(str(file))
    except SystemError:
        # Python 3.11's parser loses count ("recursion depth mismatch") when the garbage collector
        # strikes in the middle of it; the file is not to blame
        return Config.fromfile(str(file))


def get_config(name: str, overrides: dict | None = None) -> Config:
    """Load a config by its name.

    Args:
        name: one of ``models_mm.list_configs()``.
        overrides: dotted keys and values, as ``--cfg-options`` on the command line.

    Raises:
        UserError: no config of that name; names similar ones.
    """
    return load_config(str(config_files()[known(name, config_files())]), overrides)


def compatible(cfg: Config) -> Config:
    """A copy with mmdet's older names replaced.

    What a loader says of its own data workers counts: mmdet lets ``data.workers_per_gpu`` win.
    """
    own = {key: loader.get("workers_per_gpu") for key, loader in cfg.data.items() if key in LOADERS}
    cfg = compat_cfg(cfg)
    for key, workers in own.items():
        if workers is not None:
            cfg.data[key].workers_per_gpu = workers
    return cfg


def skip_overwritten(cfg: Config) -> None:
    """Do without the backbone's pretrained file if it is missing and a checkpoint overwrites it."""
    source = cfg.get("load_from") or cfg.get("resume_from")
    init = (cfg.model.get("backbone") or {}).get("init_cfg") or {}
    file = init.get("checkpoint") if init.get("type") == "Pretrained" else None
    if source and file and not is_url(file) and not Path(file).expanduser().is_file():
        say_once(f"config: {file} does not exist and is not needed: {source} has the backbone")
        cfg.model.backbone.init_cfg = None


def check_files(cfg: Config, splits: tuple[str, ...]) -> None:
    """Find missing weights, annotations and image folders before anything is built.

    Args:
        cfg: the config.
        splits: the data sets that the run will read, of ``train``, ``val``, ``test``.

    Raises:
        UserError: a file or folder of the config does not exist.
    """
    checkpoints = [cfg.get("load_from"), cfg.get("resume_from")]
    if "train" in splits:
        checkpoints += pretrained_files(cfg.model)
    for path in checkpoints:
        if path and not is_url(path) and not Path(path).expanduser().is_file():
            raise UserError(missing_file_message(path))
    for split in splits:
        for key, path in data_paths(cfg.data.get(split)):
            if not os.path.exists(path):
                raise UserError(
                    f"data.{split}: {key} does not exist: {path}\n"
                    "  Put or link COCO at data/coco (annotations/, train2017/, val2017/), or set "
                    "MMDET_DATASETS to where it lies."
                )


def pretrained_files(model: dict) -> Iterator[str]:
    """Every checkpoint that a model config initialises from."""
    if isinstance(model, dict):
        if model.get("type") == "Pretrained" and model.get("checkpoint"):
            yield model["checkpoint"]
        if isinstance(model.get("pretrained"), str):
            yield model["pretrained"]
        model = list(model.values())
    if isinstance(model, (list, tuple)):
        for value in model:
            yield from pretrained_files(value)


def data_paths(dataset) -> Iterator[tuple[str, str]]:
    """Annotation files and image folders of a data set config, wrappers and lists included."""
    if isinstance(dataset, (list, tuple)):
        for item in dataset:
            yield from data_paths(item)
    elif isinstance(dataset, dict):
        root = dataset.get("data_root") or ""
        for key in ("ann_file", "img_prefix"):
            for path in _listed(dataset.get(key)):
                yield key, path if os.path.isabs(path) else os.path.join(root, path)
        for key in ("dataset", "datasets"):
            yield from data_paths(dataset.get(key))


def _listed(value) -> list[str]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return [v for v in values if isinstance(v, str) and v and not is_url(v)]
