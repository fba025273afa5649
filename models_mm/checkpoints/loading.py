"""Load the weights of a checkpoint into a model, completely or not at all.

There are three purposes, which allow different kinds of differences:

* :func:`load_pretrained`: a backbone from a classification or detection file (``init_cfg``);
* :func:`load_checkpoint`: a detector for testing or resuming; everything must fit;
* :func:`load_for_finetuning`: a detector that is trained further (``load_from``); the layers whose
  shape depends on the number of classes may differ, and then keep their initial weights.

Entries that are skipped are named. Any other difference raises :class:`CheckpointError`.
"""

import logging
import re
from collections import OrderedDict

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from models_mm.backbones import OTHER_FILES, PublishedFiles
from models_mm.checkpoints.fetch import read_url
from models_mm.checkpoints.files import is_url, read_checkpoint
from models_mm.checkpoints.published import files_of
from models_mm.errors import CheckpointError

# Predictors of mmdet's heads, with one or four rows per class.
CLASS_DEPENDENT = re.compile(
    r"(bbox_head\.(\d+\.)?(fc_cls|fc_reg|retina_cls)"
    r"|mask_head\.(\d+\.)?conv_logits)\.(weight|bias)"
)
# Copies of mmcv's EMA hook; and the counter of BatchNorm, which files before 2018 lack.
EMA = re.compile(r"ema_.*")
COUNTER = re.compile(r".*\.num_batches_tracked")
SHOWN = 4
# The file of a detector has no classifier that could be dropped.
EXACT = PublishedFiles(name="detector")
LOGGER = logging.getLogger("models_mm")


def load_pretrained(
    backbone: nn.Module, path: str, prefix: str | None = None, map_location="cpu"
) -> None:
    """Load a backbone from a published classification file or from a detector's checkpoint.

    Args:
        backbone: the module to fill.
        path: file or URL.
        prefix: load only the entries with this prefix (default: ``backbone.`` if the file belongs
            to a detector).
        map_location: as in ``torch.load``.

    Raises:
        CheckpointError: the file cannot be read, or belongs to another backbone.
    """
    entries = unwrap(_read(path, map_location), path)
    if prefix is None and is_detector(entries):
        prefix = "backbone."
    if prefix is not None:
        entries = below(entries, prefix if prefix.endswith(".") else prefix + ".", path)
    published = files_of(backbone)
    try:
        entries = published.adapted(entries, backbone)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    dropped = fill(backbone, entries, path, published)
    LOGGER.info(f"loaded {path}{_named(' without', dropped)}")


def load_checkpoint(
    model: nn.Module,
    filename: str,
    map_location=None,
    strict: bool = True,
    logger: logging.Logger | None = None,
    revise_keys=((r"^module\.", ""),),
) -> dict:
    """Load a detector's checkpoint exactly; the signature is that of mmcv's function.

    ``strict`` is accepted for callers in mmcv and has no effect: a checkpoint must always fit.

    Returns:
        The whole checkpoint, with its ``meta`` and ``optimizer``.

    Raises:
        CheckpointError: the file cannot be read, or belongs to another model.
    """
    checkpoint = _read(filename, map_location or "cpu")
    entries = unwrap(checkpoint, filename, revise_keys)
    model = model.module if isinstance(model, (DataParallel, DistributedDataParallel)) else model
    if hasattr(model, "backbone") and not is_detector(entries):
        raise CheckpointError(
            f"{filename} holds a backbone without neck and heads, and a whole detector is needed. "
            "To start training from it, set model.backbone.init_cfg="
            f"dict(type='Pretrained', checkpoint='{filename}')"
        )
    if hasattr(model, "backbone"):
        fill(model, with_own_backbone(entries, model), filename, EXACT)
    else:
        fill(model, entries, filename, files_of(model))
    (logger or LOGGER).info(f"loaded {filename}")
    return checkpoint


def load_for_finetuning(model: nn.Module, path: str, logger: logging.Logger | None = None) -> None:
    """Load ``load_from``: a detector's checkpoint, or a backbone's into ``model.backbone``.

    If the number of classes differs, the layers whose shape depends on it keep their initial
    weights, and a warning names them.

    Raises:
        CheckpointError: the file cannot be read, or differs in more than the number of classes.
    """
    logger = logger or LOGGER
    entries = unwrap(_read(path, "cpu"), path)
    if hasattr(model, "backbone") and not is_detector(entries):
        load_pretrained(model.backbone, path)
        others = [name for name, _ in model.named_children() if name != "backbone"]
        logger.warning(f"{path} is a backbone: {', '.join(others)} start untrained")
        return
    if hasattr(model, "backbone"):
        entries = with_own_backbone(entries, model)
    own = model.state_dict()
    resized = [
        key
        for key, value in entries.items()
        if key in own
        and value.shape != own[key].shape
        and value.shape[1:] == own[key].shape[1:]  # the first axis has the classes
        and CLASS_DEPENDENT.search(key)
    ]
    for key in resized:
        entries[key] = own[key]
    fill(model, entries, path, EXACT)
    logger.info(f"loaded {path}")
    if resized:
        logger.warning(f"another number of classes: {', '.join(resized)} start untrained")


def _read(path: str, map_location) -> dict:
    if is_url(path):
        return read_url(path, map_location)
    return read_checkpoint(path, map_location)


def unwrap(checkpoint: dict, path: str, revise_keys=((r"^module\.", ""),)) -> dict:
    """The weights of a checkpoint, renamed: in ``state_dict``, in ``model``, or at its top level.

    The averaged weights of timm's trainer count if the file has no others.

    Raises:
        CheckpointError: there are no tensors in the expected places.
    """
    trained = [key for key in ("state_dict", "model") if key in checkpoint]
    for key in trained or ("state_dict_ema", "model_ema"):
        if isinstance(checkpoint.get(key), dict):
            checkpoint = checkpoint[key]
            break
    entries = OrderedDict(
        (key, as_tensor(value) if is_numeric_array(value) else value)
        for key, value in checkpoint.items()
    )
    named = all(isinstance(key, str) for key in entries)
    if not entries or not named or not all(isinstance(v, torch.Tensor) for v in entries.values()):
        found = ", ".join(sorted(map(str, checkpoint))[:SHOWN]) or "nothing"
        raise CheckpointError(f"{path} holds no state dict of tensors; found: {found}")
    for pattern, replacement in revise_keys:
        entries = OrderedDict((re.sub(pattern, replacement, k), v) for k, v in entries.items())
    return entries


def is_numeric_array(value) -> bool:
    """Whether a value is a NumPy array that can become a tensor."""
    return isinstance(value, np.ndarray) and value.dtype.kind in "biuf"


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """A copy of a numeric array, in this machine's byte order."""
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))


def is_detector(entries: dict) -> bool:
    """Whether a state dict belongs to a complete detector."""
    return any(key.startswith("backbone.") for key in entries)


def with_own_backbone(entries: dict, model: nn.Module) -> dict:
    """The entries of a detector, adapted if the published backbone has another class than ours."""
    published = files_of(model.backbone)
    if not published.in_detectors:
        return entries
    theirs = {
        k.removeprefix("backbone."): v for k, v in entries.items() if k.startswith("backbone.")
    }
    theirs = published.adapted(theirs, model.backbone)
    others = {k: v for k, v in entries.items() if not k.startswith("backbone.")}
    return others | {f"backbone.{k}": v for k, v in theirs.items() if not published.drops(k)}


def below(entries: dict, prefix: str, path: str) -> dict:
    """The entries whose keys have a prefix, without the prefix.

    Raises:
        CheckpointError: there are none.
    """
    found = OrderedDict((k[len(prefix) :], v) for k, v in entries.items() if k.startswith(prefix))
    if not found:
        raise CheckpointError(f"{path} has no entry below {prefix!r}")
    return found


def fill(
    model: nn.Module, entries: dict, path: str, published: PublishedFiles = OTHER_FILES
) -> list[str]:
    """Check all names and shapes, then copy every entry into the model.

    Returns:
        The keys of the file that are known to be unused.

    Raises:
        CheckpointError: a key is missing, is unexpected or has another shape, or two names of one
            tensor have different values. The model is then unchanged.
    """
    own = model.state_dict()
    unexpected = [key for key in entries if key not in own]
    dropped = [key for key in unexpected if published.drops(key) or EMA.fullmatch(key)]
    missing = [
        key
        for key in own
        if key not in entries and not published.lacks(key) and not COUNTER.fullmatch(key)
    ]
    wrong = [
        f"{key} {tuple(entries[key].shape)} instead of {tuple(value.shape)}"
        for key, value in own.items()
        if key in entries and entries[key].shape != value.shape
    ]
    contradictory = contradictions(own, entries) if not wrong else []
    unexpected = sorted(set(unexpected) - set(dropped))
    if missing or unexpected or wrong or contradictory:
        lines = [f"{path} is not a checkpoint of this {type(model).__name__}:"]
        lines += [
            _named(f"  {len(keys)} {what}:", keys)
            for what, keys in (
                ("missing", missing),
                ("unexpected", unexpected),
                ("of another shape", wrong),
                ("at odds with another name of the same tensor", contradictory),
            )
            if keys
        ]
        raise CheckpointError("\n".join(lines))
    model.load_state_dict({k: v for k, v in entries.items() if k in own}, strict=False)
    return dropped


def contradictions(own: dict, entries: dict) -> list[str]:
    """Keys of a file that name the same tensor of the model but have different values."""
    first: dict[tuple, str] = {}
    found = []
    for key, value in own.items():
        if key not in entries or not value.numel():
            continue
        same = first.setdefault((value.data_ptr(), value.shape), key)
        if same != key and not torch.equal(entries[key], entries[same]):
            found.append(key)
    return found


def _named(lead: str, keys: list[str]) -> str:
    """``lead`` and the first keys of a list; nothing for an empty list."""
    if not keys:
        return ""
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return f"{lead} {', '.join(keys[:SHOWN])}{more}"
