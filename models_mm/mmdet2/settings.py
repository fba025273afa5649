"""Check the names and values of all settings of a config before anything is built.

The arguments of a registered class are those of its constructor; ``TABLE`` has all other settings.
"""

import ast
import fnmatch
import inspect
import textwrap
from collections.abc import Iterable, Iterator

from mmcv import Config
from mmcv.runner import HOOKS, EMAHook
from mmcv.runner import OptimizerHook as PlainOptimizerHook
from mmcv.runner.optimizer import OPTIMIZERS
from mmcv.utils import Registry
from mmdet.core.optimizers import OPTIMIZER_BUILDERS
from mmdet.datasets import DATASETS, PIPELINES
from mmdet.models import DETECTORS
from mmdet.models.builder import MODELS

from models_mm.errors import UserError, did_you_mean
from models_mm.mmdet2.conflicts import check_conflicts
from models_mm.mmdet2.snapshots import CheckpointWriter
from models_mm.values import (
    FLAG,
    NONE,
    SEED,
    SETTINGS,
    TEXT,
    Kind,
    choice,
    either,
    is_number,
    many,
    number,
    shown,
    whole,
)

BATCH, WORKERS, POSITIVE = whole(1, 4096), whole(0, 256), number(above=0)
NAME = either(NONE, TEXT)
STARTS = ("fork", "spawn", "forkserver")  # of data workers
FLOW = Kind(
    "[('train', 1)] or [('train', N), ('val', M)] with whole numbers",
    lambda value: (
        isinstance(value, (list, tuple))
        and len(value) in (1, 2)
        and all(map(_is_flow, value, ("train", "val")))
    ),
)
DICTS = Kind(
    "a list of dicts",
    lambda value: isinstance(value, list) and all(isinstance(item, dict) for item in value),
)


def _is_flow(value: object, mode: str) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and value[0] == mode
        and whole(1).fits(value[1])
    )


# Paths of settings (``*``: any one part) and their valid values.
TABLE: dict[str, Kind] = {
    "amp": either(NONE, choice("bfloat16", "float16", "off")),
    "auto_resume": FLAG,
    "channels_last": FLAG,
    "compile": FLAG,
    "cudnn_benchmark": FLAG,
    "device": NAME,
    "gpu_ids": Kind("a list of GPU numbers", lambda value: isinstance(value, (list, tuple, range))),
    "find_unused_parameters": FLAG,
    "log_level": choice("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
    "mp_start_method": choice(*STARTS),
    "opencv_num_threads": whole(0, 256),
    "load_from": NAME,
    "resume_from": NAME,
    "work_dir": NAME,
    "seed": either(NONE, SEED),
    "workflow": FLOW,
    "model": SETTINGS,
    "data": SETTINGS,
    "data.*_dataloader": SETTINGS,
    **{f"data{part}.samples_per_gpu": BATCH for part in ("", ".*_dataloader", ".val", ".test")},
    "data.imgs_per_gpu": BATCH,
    **{f"data{part}.workers_per_gpu": WORKERS for part in ("", ".*_dataloader")},
    **{f"data{part}.persistent_workers": FLAG for part in ("", ".*_dataloader")},
    "data.*_dataloader.shuffle": FLAG,
    "data.*_dataloader.pin_memory": FLAG,
    "data.*_dataloader.drop_last": FLAG,
    "data.*_dataloader.class_aware_sampler": either(NONE, SETTINGS),
    "data.*_dataloader.class_aware_sampler.num_sample_class": whole(1),
    "data.*_dataloader.prefetch_factor": whole(1, 256),
    "data.*_dataloader.timeout": number(0),
    "data.*_dataloader.multiprocessing_context": either(NONE, choice(*STARTS)),
    "runner": SETTINGS,
    "runner.max_epochs": either(NONE, whole(1)),
    "runner.max_iters": either(NONE, whole(1)),
    "total_epochs": whole(1),
    "optimizer": SETTINGS,
    "optimizer.lr": number(0),
    "optimizer.weight_decay": number(0),
    "optimizer.momentum": number(0),
    "optimizer.eps": number(0),
    "optimizer.betas": many(number(0, 1)),
    "optimizer.fused": either(NONE, FLAG),
    "optimizer.foreach": either(NONE, FLAG),
    "optimizer.paramwise_cfg": either(NONE, SETTINGS),
    "optimizer.paramwise_cfg.*_mult": number(0),
    "optimizer.paramwise_cfg.bypass_duplicate": FLAG,
    "optimizer.paramwise_cfg.custom_keys": SETTINGS,
    "optimizer.paramwise_cfg.custom_keys.*": SETTINGS,
    "optimizer.paramwise_cfg.custom_keys.*.*": number(0),
    "optimizer_config": SETTINGS,
    "optimizer_config.grad_clip": either(NONE, SETTINGS),
    "optimizer_config.grad_clip.max_norm": POSITIVE,
    "optimizer_config.grad_clip.norm_type": POSITIVE,
    "optimizer_config.cumulative_iters": whole(1),
    "lr_config": either(NONE, SETTINGS),
    "lr_config.by_epoch": FLAG,
    "lr_config.step": either(whole(1), many(whole(1))),
    "lr_config.gamma": POSITIVE,
    "lr_config.min_lr": either(NONE, number(0)),
    "lr_config.min_lr_ratio": either(NONE, number(0, 1)),
    "lr_config.power": number(0),
    "lr_config.warmup": either(NONE, choice("constant", "linear", "exp")),
    "lr_config.warmup_iters": whole(0),
    "lr_config.warmup_ratio": Kind(
        "a number greater than 0, at most 1", lambda value: is_number(value) and 0 < value <= 1
    ),
    "lr_config.warmup_by_epoch": FLAG,
    "momentum_config": either(NONE, SETTINGS),
    "checkpoint_config": either(NONE, SETTINGS),
    "checkpoint_config.by_epoch": either(NONE, FLAG),
    "checkpoint_config.interval": either(choice(-1), whole(1)),
    "checkpoint_config.iterations": either(NONE, whole(1)),
    "checkpoint_config.minutes": either(NONE, number(0)),
    "checkpoint_config.max_keep_ckpts": either(choice(-1), whole(1)),
    "evaluation": SETTINGS,
    "evaluation.by_epoch": FLAG,
    "evaluation.interval": whole(1),
    "evaluation.start": either(NONE, whole(0)),
    "evaluation.pictures": whole(0),
    "evaluation.save_best": NAME,
    "evaluation.rule": either(NONE, choice("greater", "less")),
    "evaluation.gpu_collect": FLAG,
    "evaluation.broadcast_bn_buffer": FLAG,
    "early_stopping": either(NONE, SETTINGS),
    "early_stopping.patience": whole(1),
    "early_stopping.monitor": TEXT,
    "early_stopping.min_delta": number(0),
    "early_stopping.mode": choice("max", "min"),
    "log_config": SETTINGS,
    "log_config.interval": whole(1),
    "log_config.hooks": DICTS,
    "custom_hooks": either(NONE, DICTS),
    "ema": either(NONE, SETTINGS),
    "ema.momentum": Kind(
        "a number between 0 and 1", lambda value: is_number(value) and 0 < value < 1
    ),
    "ema.interval": whole(1),
    "ema.warm_up": whole(1),
    "fp16": either(NONE, SETTINGS),
    "fp16.loss_scale": either(choice("dynamic"), POSITIVE, SETTINGS),
    "fp16.coalesce": FLAG,
    "fp16.bucket_size_mb": whole(-1),
    "auto_scale_lr": either(NONE, SETTINGS),
    "auto_scale_lr.enable": FLAG,
    "auto_scale_lr.base_batch_size": whole(1),
    "dist_params": SETTINGS,
    "dist_params.backend": choice("nccl", "gloo", "mpi"),
    "dist_params.timeout": POSITIVE,
    "dist_params.port": whole(1, 65535),
    "faults": SETTINGS,
    "faults.hang_timeout": POSITIVE,
    "faults.bad_images": number(0),
    "faults.nonfinite_loss": choice("stop", "skip"),
}
# Sections of which the table has all names.
CLOSED = (
    *("auto_scale_lr", "dist_params", "early_stopping", "faults", "fp16", "log_config"),
    *("optimizer_config.grad_clip", "data.*_dataloader.class_aware_sampler"),
)
# Arguments of mmdet's build_dataloader and PyTorch's DataLoader that a config can express.
LOADER = (
    *("samples_per_gpu", "workers_per_gpu", "num_gpus", "shuffle", "seed", "persistent_workers"),
    *("class_aware_sampler", "pin_memory", "drop_last", "timeout", "prefetch_factor"),
    *("multiprocessing_context",),
)
# Names that optimizer constructors read from paramwise_cfg and from its custom_keys.
BY_LAYER = ("num_layers", "decay_rate", "decay_type")
PARAMWISE = {
    "DefaultOptimizerConstructor": (
        *("custom_keys", "bias_lr_mult", "bias_decay_mult", "norm_decay_mult"),
        *("dwconv_decay_mult", "dcn_offset_lr_mult", "bypass_duplicate"),
    ),
    "LearningRateDecayOptimizerConstructor": BY_LAYER,
    "LayerDecayOptimizerConstructor": BY_LAYER,
}
CUSTOM_KEYS = ("lr_mult", "decay_mult")
# Sections that only training reads.
OF_TRAINING = (
    *("runner", "optimizer", "optimizer_config", "lr_config", "momentum_config", "ema"),
    *("checkpoint_config", "log_config", "custom_hooks", "workflow", "auto_scale_lr"),
    "early_stopping",
    *("total_epochs", "load_from", "resume_from", "seed"),
)
PATHS = {
    "ann_file": either(TEXT, many(TEXT)),
    "img_prefix": either(Kind("a text", lambda value: isinstance(value, str)), NONE, many(TEXT)),
    "data_root": NAME,
}
# Parts of a detector, by their key, for any name of their type.
PARTS = ("backbone", "neck", "rpn_head", "roi_head", "bbox_head", "mask_head")
# Settings that one part of a detector takes from another before that is built (DETR's head).
TAKEN = {"bg_cls_weight"}
# Arguments that builders add to the settings.
GIVEN = {"params", "train_cfg", "test_cfg", "distributed"}
ANY = Kind("anything", lambda value: True)
PLAIN = {bool: FLAG, int: whole(-(10**9)), float: number()}


def check_settings(cfg: Config, splits: Iterable[str], training: bool = False) -> None:
    """Refuse unknown settings and invalid values before anything is built or read.

    Args:
        cfg: the config, with overrides applied.
        splits: the data sets that will be read, of ``train``, ``val``, ``test``.
        training: also check the settings that only a training needs.

    Raises:
        UserError: names the setting and what is expected, and suggests the most similar name.
    """
    tree = cfg._cfg_dict
    for path, kind in TABLE.items():
        if training or path.partition(".")[0] not in OF_TRAINING:
            for key, value in places(tree, path):
                kind.check(key, value)
    for section in CLOSED:
        if training or section not in OF_TRAINING:
            known = [path.rpartition(".")[2] for path in TABLE if path.startswith(section + ".")]
            for key, value in places(tree, section):
                check_names(key, value or (), known)
    for split in ("train", "val", "test"):
        if split in splits:
            check_dataset(f"data.{split}", tree["data"].get(split))
        loader = tree["data"].get(f"{split}_dataloader") or {}
        check_names(f"data.{split}_dataloader", loader, LOADER)
    if tree["model"]:
        check_class("model", tree["model"], DETECTORS)
        check_models("model", tree["model"])
    if training:
        check_training(tree)
    check_conflicts(tree, splits, training)


def places(tree: dict, path: str, before: str = "") -> Iterator[tuple[str, object]]:
    """The values of a config at a path of ``TABLE``, with their full names."""
    first, _, rest = path.partition(".")
    if not isinstance(tree, dict):
        return
    for key in fnmatch.filter(map(str, tree), first):
        if rest:
            yield from places(tree[key], rest, f"{before}{key}.")
        else:
            yield before + key, tree[key]


def check_names(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse unknown names in a section."""
    known = list(known)
    for name in given:
        if name not in known:
            raise UserError(
                f"{where} has no setting {name}{did_you_mean(name, known, where + '.')}"
            )


def check_training(tree: dict) -> None:
    """Check what training builds besides model and data."""
    for name in ("runner", "optimizer", "optimizer_config", "workflow", "log_level"):
        if name not in tree and not (name == "runner" and "total_epochs" in tree):
            raise UserError(f"{name} is missing: a training needs it")
    check_runner(tree)
    optimizer = dict(tree["optimizer"])
    constructor = optimizer.pop("constructor", "DefaultOptimizerConstructor")
    check_type("optimizer.constructor", constructor, _names(OPTIMIZER_BUILDERS))
    by_parameter = optimizer.pop("paramwise_cfg", None) or {}
    if constructor in PARAMWISE:
        check_names("optimizer.paramwise_cfg", by_parameter, PARAMWISE[constructor])
        for key, multiples in places(tree, "optimizer.paramwise_cfg.custom_keys.*"):
            check_names(key, multiples, CUSTOM_KEYS)
    check_class("optimizer", optimizer, OPTIMIZERS)
    settings = dict(tree["optimizer_config"])
    if "type" in settings:
        check_class("optimizer_config", settings, HOOKS)
    else:
        settings.pop("cumulative_iters", None)
        check_arguments("optimizer_config", PlainOptimizerHook, settings)
    for name, end in (("lr_config", "LrUpdaterHook"), ("momentum_config", "MomentumUpdaterHook")):
        if tree.get(name):
            check_policy(name, dict(tree[name]), end)
    for name, kind in (("ema", EMAHook), ("checkpoint_config", CheckpointWriter)):
        check_arguments(name, kind, tree.get(name) or {})
    hooks = [(f"custom_hooks.{i}", hook) for i, hook in enumerate(tree.get("custom_hooks") or ())]
    if "log_config" in tree:
        for name in ("interval", "hooks"):
            if name not in tree["log_config"]:
                raise UserError(f"log_config.{name} is missing: a log needs it")
        loggers = tree["log_config"]["hooks"]
        hooks += [(f"log_config.hooks.{i}", hook) for i, hook in enumerate(loggers)]
    for where, hook in hooks:
        check_class(where, {k: v for k, v in hook.items() if k != "priority"}, HOOKS)


def check_runner(tree: dict) -> None:
    """Check the type of the runner, and its length, which must be given once."""
    if "runner" not in tree:
        return
    runner = dict(tree["runner"])
    lengths = {"EpochBasedRunner": "max_epochs", "IterBasedRunner": "max_iters"}
    kind = runner.pop("type", None)
    check_type("runner.type", kind, lengths)
    check_names("runner", runner, ("type", *lengths.values()))
    if [name for name, value in runner.items() if value is not None] != [lengths[kind]]:
        raise UserError(f"runner: {kind} needs {lengths[kind]} and no other length")
    if tree.get("total_epochs", runner.get("max_epochs")) != runner.get("max_epochs"):
        raise UserError("total_epochs is the old name of runner.max_epochs: give one of them")


def check_policy(where: str, settings: dict, end: str) -> None:
    """Check a schedule: its ``policy`` is the beginning of a hook's name."""
    if "type" in settings:
        return check_class(where, settings, HOOKS)
    known = [name.removesuffix(end) for name in HOOKS.module_dict if name.endswith(end)]
    policy = settings.pop("policy", None)
    # as mmcv reads it
    name = policy.title() if isinstance(policy, str) and policy == policy.lower() else policy
    check_type(f"{where}.policy", name, known)
    check_arguments(where, HOOKS.get(name + end), settings)


def check_dataset(where: str, dataset: object) -> None:
    """Check a data set with its pipeline, also inside wrappers and lists."""
    if isinstance(dataset, (list, tuple)) and dataset:
        for place, item in enumerate(dataset):
            check_dataset(f"{where}.{place}", item)
        return
    SETTINGS.check(where, dataset)
    of_evaluation = where.startswith(("data.val", "data.test"))  # the loader reads it from here
    settings = {k: v for k, v in dataset.items() if not (of_evaluation and k == "samples_per_gpu")}
    for name, kind in PATHS.items():
        if name in settings:
            kind.check(f"{where}.{name}", settings[name])
    check_class(where, settings, DATASETS)
    for inner in ("dataset", "datasets"):
        if inner in settings:
            check_dataset(f"{where}.{inner}", settings[inner])
    if "pipeline" in settings:
        check_pipeline(f"{where}.pipeline", settings["pipeline"])


def check_pipeline(where: str, pipeline: object) -> None:
    """Check transforms, and transforms inside of them."""
    DICTS.check(where, list(pipeline) if isinstance(pipeline, tuple) else pipeline)
    if not pipeline:
        raise UserError(f"{where}: it has no transforms")
    for place, transform in enumerate(pipeline):
        check_class(f"{where}.{place}", transform, PIPELINES)
        inner = transform.get("transforms")
        if transform["type"] == "MultiScaleFlipAug" and inner is not None:
            check_pipeline(f"{where}.{place}.transforms", inner)


def check_models(where: str, settings: object) -> None:
    """Check the parts of a detector that are registered as such."""
    items = settings.items() if isinstance(settings, dict) else enumerate(settings)
    for key, part in items:
        if isinstance(part, dict):
            if key in PARTS or MODELS.get(str(part.get("type"))) is not None:
                own = {name: value for name, value in part.items() if name not in TAKEN}
                check_class(f"{where}.{key}", own, MODELS)
            check_models(f"{where}.{key}", part)
        elif isinstance(part, (list, tuple)):
            check_models(f"{where}.{key}", part)


def check_type(where: str, name: object, known: Iterable[str]) -> None:
    """Refuse a type that is not registered."""
    known = sorted(known)
    if name not in known:
        few = f" (known: {', '.join(known)})" if len(known) < 20 else ""
        given = "is missing" if name is None else f"{shown(name)} is unknown"
        raise UserError(f"{where} {given}{few}{did_you_mean(name, known)}")


def check_class(where: str, settings: object, registry: Registry) -> None:
    """Refuse a type that is not registered, and arguments that its constructor would refuse."""
    SETTINGS.check(where, settings)
    name = settings.get("type")
    kind = name if inspect.isclass(name) else isinstance(name, str) and registry.get(name)
    if not kind:
        check_type(f"{where}.type", name, _names(registry))
    check_arguments(where, kind, {k: v for k, v in settings.items() if k != "type"})


def _names(registry: Registry) -> set[str]:
    """All names of a registry and of its parents (such as Conv2d of mmcv's models)."""
    parent = _names(registry.parent) if registry.parent else set()
    return parent | set(registry.module_dict)


def check_arguments(where: str, kind: type, settings: dict) -> None:
    """Refuse arguments that a constructor does not have, and simple values of a wrong type."""
    known = arguments(kind) if inspect.isclass(kind) else None
    if known is None:
        return
    check_names(where, settings, known)
    for name, value in settings.items():
        PLAIN.get(known[name].annotation, ANY).check(f"{where}.{name}", value)
        default = known[name].default
        if is_number(default) and isinstance(value, (str, dict)):
            raise UserError(f"{where}.{name} must be a number, not {shown(value)}")
    for name, parameter in inspect.signature(kind).parameters.items():
        needed = parameter.kind in NAMED and parameter.default is parameter.empty
        if needed and name not in {*settings, *GIVEN}:
            raise UserError(f"{where}.{name} is missing: {kind.__name__} needs it")


def arguments(kind: type) -> dict[str, inspect.Parameter] | None:
    """The arguments of a class, by name; ``None`` if it accepts any.

    If a constructor passes its ``**kwargs`` on, they are the arguments of the next class.
    """
    found: dict[str, inspect.Parameter] = {}
    owners = [owner for owner in kind.__mro__[:-1] if "__init__" in vars(owner)]
    for owner in owners:
        parameters = inspect.signature(owner.__init__).parameters
        found = {k: v for k, v in parameters.items() if v.kind in NAMED and k != "self"} | found
        rest = [k for k, v in parameters.items() if v.kind is inspect.Parameter.VAR_KEYWORD]
        if not rest:
            return found
        if not _passes_on(owner, rest[0]):
            return None
    return None if owners else {}


NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _passes_on(owner: type, rest: str) -> bool:
    """Whether a constructor passes its ``**rest`` to that of the next class."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(owner.__init__)))
    except (OSError, TypeError, SyntaxError):
        return False
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        match call.func:
            case ast.Attribute(ast.Call(ast.Name("super"), start), "__init__"):
                here = not start or ast.unparse(start[0]) == owner.__name__
                if here and any(
                    k.arg is None and ast.unparse(k.value) == rest for k in call.keywords
                ):
                    return True
    return False
