"""``--cfg-options``: read them from the command line, check them, and apply them to the config."""

import math
from argparse import ArgumentError

from mmcv import Config, ConfigDict
from mmcv import DictAction as PlainDictAction

from models_mm.errors import UserError, did_you_mean
from models_mm.values import shown

# Settings that mmdet reads although a config may lack them; other new names are typing errors.
TOP_LEVEL = {
    *("amp", "channels_last", "compile", "ema"),
    *("auto_resume", "auto_scale_lr", "checkpoint_config", "cudnn_benchmark", "custom_hooks"),
    *("data", "dist_params", "early_stopping", "evaluation", "faults", "fp16"),
    *("find_unused_parameters", "load_from", "log_config", "log_level", "lr_config"),
    *("model", "momentum_config", "mp_start_method", "opencv_num_threads", "optimizer"),
    *("optimizer_config", "resume_from", "runner", "test_cfg", "total_epochs"),
    *("train_cfg", "work_dir", "workflow"),
}
# Settings that are options of the command line.
OPTIONS = {"seed": "--seed", "gpu_ids": "--gpu-id", "device": "CUDA_VISIBLE_DEVICES or --device"}
DATA = {
    *("train", "val", "test", "samples_per_gpu", "workers_per_gpu", "persistent_workers"),
    *("train_dataloader", "val_dataloader", "test_dataloader", "imgs_per_gpu"),
}
# Names that detectors read from train_cfg and test_cfg, at any depth.
FREE = {
    *("rpn", "rpn_proposal", "rcnn", "assigner", "sampler", "allowed_border", "pos_weight"),
    *("debug", "mask_size", "nms", "nms_pre", "max_per_img", "min_bbox_size", "score_thr"),
    *("mask_thr_binary", "type", "iou_threshold", "class_agnostic", "split_thr", "max_num"),
    *("mask_thr", "filter_thr", "kernel", "sigma", "min_score", "method", "offset"),
}
# A setting of mmdet that is either a flag or a name.
FLAG_OR_NAME = "add_extra_convs"


class DictAction(PlainDictAction):
    """Reads KEY=VALUE pairs as mmcv does, and refuses anything else in one line.

    The option may be given several times; if a key is repeated, its last value counts.
    """

    def __call__(self, parser, namespace, values, option_string=None):
        options = dict(getattr(namespace, self.dest) or {})
        for pair in values:
            key, equals, value = pair.partition("=")
            if not equals or not all(part.strip() for part in key.split(".")):
                raise ArgumentError(self, f"{pair!r} is no KEY=VALUE such as optimizer.lr=1e-4")
            if not value:
                raise ArgumentError(self, f"{key}= has no value (None and '[]' are values)")
            try:
                options[key] = self._parse_iterable(value)
            except (AssertionError, RecursionError) as error:
                raise ArgumentError(self, f"{key}: brackets do not match in {value!r}") from error
        setattr(namespace, self.dest, options)


def apply(cfg: Config, overrides: dict) -> None:
    """Apply overrides to a config.

    Args:
        cfg: the config, changed in place.
        overrides: dotted keys and their values.

    Raises:
        UserError: neither the config nor mmdet knows a key (mmcv would add it silently), or a value
            has another type than the one that it replaces.
    """
    for key, value in overrides.items():
        try:
            check(cfg, key.split("."), value)
        except UserError as error:
            raise UserError(f"--cfg-options: {error}") from error
    try:
        cfg.merge_from_dict(overrides)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"--cfg-options: the keys contradict each other: {error}") from error
    if isinstance(
        overrides.get("model.pretrained"), str
    ):  # an override has priority over the config file
        cfg.model.backbone.init_cfg = dict(
            type="Pretrained", checkpoint=cfg.model.pop("pretrained")
        )


def check(cfg: Config, keys: list[str], value: object) -> None:
    """Follow a key into the config; sections that are ``None`` on the way become empty dicts."""
    known_name(cfg, keys)
    place = cfg._cfg_dict
    for depth, key in enumerate(keys):
        where, last = ".".join(keys[:depth]), depth == len(keys) - 1
        if isinstance(place, (list, tuple)):
            check_item(place, key, where, value if last else {})
            place = place[int(key)]
            continue
        if not isinstance(place, dict):
            raise UserError(f"{where} is {shown(place)}, which has no {key}")
        if key not in place:
            inside = {"train_cfg", "test_cfg"} & set(keys[:depth])
            if inside and key not in FREE:
                known = FREE | set(place)
                raise UserError(
                    f"{where} has no setting {key}{did_you_mean(key, known, where + '.')}"
                )
            return
        if place[key] is None and not last:
            place[key] = ConfigDict()
        place = place[key]
    same_kind(".".join(keys), place, value)


def known_name(cfg: Config, keys: list[str]) -> None:
    """Refuse an unknown first or second part of a key."""
    known, name, where = TOP_LEVEL, keys[0], ""
    if name in OPTIONS:
        raise UserError(f"{name} is no setting of a config: use {OPTIONS[name]}")
    if name not in known and name in cfg:
        raise UserError(
            f"{name} is a variable of the config file, which exists only while the file is read: "
            "override the settings that use it (data.train.ann_file, ...), or edit the file"
        )
    if name == "data" and len(keys) > 1:
        known, name, where = set(cfg.get("data", {})) | DATA, keys[1], "data."
    if name not in known:
        raise UserError(f"the config has no {where}{name}{did_you_mean(name, known, where)}")


def check_item(place: list | tuple, key: str, where: str, new: object) -> None:
    """Refuse an item of a list that does not exist, or that cannot be merged."""
    if not key.isdecimal() or int(key) >= len(place):
        raise UserError(f"{where} is a list of {len(place)}: it has no item {key!r}")
    inner = isinstance(place, list) and isinstance(place[int(key)], (dict, list))
    if not (inner and isinstance(new, dict)):
        raise UserError(f"{where}.{key}: one item cannot be replaced: give all of {where}")


def same_kind(name: str, old: object, new: object) -> None:
    """Refuse a value whose type does not fit the old value."""
    for value in new if isinstance(new, (list, tuple)) else [new]:
        if isinstance(value, float) and math.isnan(value):
            raise UserError(f"{name}: {new} is no number")
    if new is None or old is None:
        return
    if isinstance(old, dict):
        fits, expected = isinstance(new, dict), "a dict of settings: give them one by one"
    elif isinstance(old, bool):
        named = isinstance(new, str) and name.endswith(FLAG_OR_NAME)
        fits, expected = isinstance(new, bool) or named, "True or False"
    elif isinstance(old, (int, float)):
        # loss_scale may be "dynamic"; a size may be a pair
        fits = not isinstance(new, (str, dict, bool)) or name == "fp16.loss_scale"
        expected = "a number"
    elif isinstance(old, (list, tuple)) and old and isinstance(old[0], (dict, int, float)):
        kind = dict if isinstance(old[0], dict) else (int, float, list, tuple)
        items = new if isinstance(new, (list, tuple)) else [new]
        fits = all(isinstance(value, kind) for value in items) and not isinstance(new, dict)
        expected = (
            "a list of dicts, which can only be given in a config file"
            if kind is dict
            else "a list of numbers"
        )
    else:
        fits, expected = not (isinstance(old, str) and isinstance(new, dict)), "a text"
    if not fits:
        raise UserError(f"{name} must be {expected}, not {shown(new)}")
