"""Checkpoint files: read without running what they bring along, written whole or not at all."""

import argparse
import codecs
import errno
import json
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save

from models_mm.checkpoints.families import source_of
from models_mm.checkpoints.pickles import read_pickle
from models_mm.errors import CheckpointError

TEMPORARY = ".tmp"  # the end of the names of files that are being written
URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")


def _named_as_in_old_files(function):
    """A function of NumPy's under the module name that files of NumPy 1 carry."""

    def constructor(*args):
        return function(*args)

    constructor.__module__, constructor.__qualname__ = "numpy.core.multiarray", function.__name__
    return constructor


def _numpy_data() -> list:
    """What NumPy's numbers (a best score) and arrays (weights) are rebuilt from: plain data."""
    core = np._core if hasattr(np, "_core") else np.core  # the name until NumPy 1
    constructors = [core.multiarray.scalar, core.multiarray._reconstruct]
    if hasattr(np, "_core"):
        constructors += [_named_as_in_old_files(function) for function in constructors]
    return [*constructors, np.ndarray, np.dtype, *_dtypes()]


def _dtypes() -> list:
    return [type(np.dtype(code)) for code in "?bhilqBHILQefd"]


class _YacsSettings:
    """What the settings in the files of Swin's descent (yacs) are read as: a plain dictionary."""

    def __new__(cls, *args):
        return OrderedDict(*args)


_YacsSettings.__module__, _YacsSettings.__qualname__ = "yacs.config", "CfgNode"

# Plain data all of them. A Namespace of training options is in many classification files; sets and
# encoded strings (in NumPy's numbers) are what later versions of torch allow by themselves.
torch.serialization.add_safe_globals(
    [argparse.Namespace, _YacsSettings, set, codecs.encode, *_numpy_data()]
)


def is_url(path: str) -> bool:
    """Whether a checkpoint's name has a scheme (``https://``, ``torchvision://``, ...)."""
    return bool(URL.match(path))


def read_checkpoint(path: str | os.PathLike, map_location="cpu", trust: bool = False) -> dict:
    """Read a checkpoint file with ``weights_only=True``, a ``.pkl`` of plain data or safetensors.

    Args:
        path: a local file.
        map_location: as in ``torch.load``.
        trust: unpickle whatever the file contains, **running the code it brings along**. Only for
            files whose origin you trust, and only by an explicit wish of the user.

    Raises:
        CheckpointError: no such file, truncated or damaged, not a checkpoint, or in need of more
            than weights and plain data.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(missing_file_message(str(path)))
    if any(name.endswith("/constants.pkl") for name in _members(path)):
        # asked first: older versions of torch would run it as a model
        raise CheckpointError(
            f"{path} is a TorchScript archive, a compiled model without a state dict that could "
            "be loaded here: take the checkpoint that it was made from"
        )
    try:
        if path.suffix == ".safetensors":
            checkpoint = _read_safetensors(path, map_location or "cpu")
        elif path.suffix == ".pkl" and not _members(path):
            checkpoint = read_pickle(path, trust)
        else:
            checkpoint = torch.load(
                path, map_location=map_location or "cpu", weights_only=not trust
            )
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(_explanation(path, error)) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f"{path} is not a checkpoint: it holds a {type(checkpoint).__name__}, not a dictionary"
        )
    return checkpoint


def _read_safetensors(path: Path, map_location) -> dict:
    with safe_open(path, framework="pt", device=str(map_location)) as file:
        state_dict = OrderedDict((key, file.get_tensor(key)) for key in file.keys())
        meta = (file.metadata() or {}).get("meta")
    return {"meta": json.loads(meta) if meta else {}, "state_dict": state_dict}


def _safetensors(checkpoint: dict, path: Path) -> bytes:
    more = sorted(set(checkpoint) - {"meta", "state_dict"})
    if more or "state_dict" not in checkpoint:
        raise CheckpointError(
            f"{path}: safetensors hold a state_dict and meta, and no {', '.join(map(str, more))}: "
            "`python tools/convert_checkpoint.py publish IN OUT.safetensors` keeps the weights"
        )
    # One name of a shared tensor may not stand for another there.
    tensors = {key: value.clone() for key, value in checkpoint["state_dict"].items()}
    meta, _ = plain(checkpoint.get("meta", {}))
    return save(tensors, metadata={"meta": json.dumps(meta), "format": "pt"})


def _explanation(path: Path, error: Exception) -> str:
    """Why a file cannot be read, and the way out."""
    if isinstance(error, OSError):
        return f"{path} cannot be read: {error.strerror or error}"
    members = _members(path)
    # torch's message has a preamble that recommends to switch the protection off
    reason = str(error).rpartition("WeightsUnpickler error: ")[2].strip().partition("\n")[0]
    blocked = sorted(set(re.findall(r"GLOBAL ([\w.]+)", str(error))))
    if blocked or (members and isinstance(error, pickle.UnpicklingError)):
        return (
            f"{path} holds more than weights and plain data ({', '.join(blocked) or reason}), and "
            "reading it would run code. If you trust its origin, rewrite it once: "
            f"`python tools/convert_checkpoint.py rewrite {path} OUT.pth --trust`"
        )
    return (
        f"{path} cannot be read ({path.stat().st_size:,} bytes; {type(error).__name__}: {reason}): "
        "the file is truncated, damaged or no PyTorch checkpoint. Copy or download it again"
    )


def _members(path: Path) -> list[str]:
    """What a checkpoint's archive holds; nothing for other files, and for truncated archives."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError):
        return []


def missing_file_message(path: str) -> str:
    """What to say of a checkpoint that does not exist: where it comes from, where to put it."""
    origin = source_of(Path(path).name)
    hint = f"\n  It is published at {origin}; download it and put it there." if origin else ""
    return f"checkpoint not found: {path}{hint}"


def write_checkpoint(checkpoint: dict, path: str | os.PathLike) -> None:
    """Write a checkpoint under a temporary name, sync it, and move it into place.

    Whatever happens meanwhile, ``path`` holds afterwards its old content or all of the new.

    Raises:
        CheckpointError: the disk is full or a quota or size limit is reached.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with open(temporary, "wb") as file:
            if path.suffix == ".safetensors":
                file.write(_safetensors(checkpoint, path))
            else:
                torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        reason = no_room(error)
        if reason is None:
            raise
        raise CheckpointError(
            f"{path} cannot be written: {reason}. Nothing was overwritten; make room and go on "
            "with --auto-resume"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def no_room(error: BaseException | None) -> str | None:
    """Why there is no room for a file, if that is what an error (or its cause) is about."""
    while error is not None:
        number = getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return os.strerror(number).lower()
        error = error.__cause__ or error.__context__
    return None


def plain(value, where: str = "") -> tuple[object, list[str]]:
    """A copy of a checkpoint reduced to tensors and plain data.

    Returns:
        The copy, and the places and types of what was left out.
    """
    if value is None or isinstance(value, (torch.Tensor, bool, int, float, complex, str, bytes)):
        return value, []
    if isinstance(value, np.generic):
        return value.item(), []
    if isinstance(value, np.ndarray) and value.dtype != object:
        return torch.from_numpy(value.copy()), []
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    dropped: list[str] = []
    if isinstance(value, dict):
        copy = {}
        for key, item in value.items():
            kept, lost = plain(item, f"{where}.{key}" if where else str(key))
            dropped += lost
            if kept is not None or item is None:
                copy[key] = kept
        return copy, dropped
    if isinstance(value, (list, tuple, set)):
        pairs = [plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
        dropped = [name for _, lost in pairs for name in lost]
        return (tuple if isinstance(value, tuple) else list)(kept for kept, _ in pairs), dropped
    return None, [f"{where} ({type(value).__module__}.{type(value).__qualname__})"]
