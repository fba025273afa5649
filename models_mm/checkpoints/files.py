"""Read checkpoint files without running code from them; write them completely or not at all."""

import argparse
import json
import os
import re
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save

from models_mm.checkpoints.archives import read_torch
from models_mm.checkpoints.inert import Foreign, ForeignName
from models_mm.checkpoints.pickles import (
    GRANTED,
    MULTIPLE,
    InertUnpickler,
    check_extent,
    read_pickle,
)
from models_mm.checkpoints.published import source_of, url_of
from models_mm.disk import open_regular, replacing
from models_mm.errors import AFTER_NO_ROOM, CheckpointError, no_room, printable

URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")


def is_url(path: str) -> bool:
    """Whether a checkpoint's name has a scheme (``https://``, ``torchvision://``, ...)."""
    return bool(URL.match(path))


def read_checkpoint(path: str | os.PathLike, map_location="cpu") -> dict:
    """Read a checkpoint: PyTorch's formats, a ``.pkl`` of plain data, or safetensors.

    No code of the file is run, and the memory is bounded by the size of the file. An object of any
    class that is not plain data is read as an :class:`inert.Foreign`, which has only a name.

    Args:
        path: a local file.
        map_location: the device for the tensors; any other value that ``torch.load`` accepts means
            the CPU.

    Raises:
        CheckpointError: no such file, truncated or damaged, or not a checkpoint.
    """
    path = Path(path).expanduser()
    checkpoint = read_content(path, map_location)
    if not isinstance(checkpoint, dict):
        kind = checkpoint.name if isinstance(checkpoint, Foreign) else type(checkpoint).__name__
        raise CheckpointError(f"{path} is not a checkpoint: it holds a {kind}, not a dictionary")
    if not isinstance(checkpoint.get("meta", {}), dict):  # of another project
        checkpoint["meta"] = {}
    return checkpoint


def read_content(path: Path, map_location="cpu", weights: bool = True):
    """As :func:`read_checkpoint`, for a file with any content.

    Args:
        path: a local file.
        map_location: as there.
        weights: read the values of the tensors; some formats allow to leave them out.
    """
    if not path.exists():
        raise CheckpointError(missing_file_message(str(path)))
    device = map_location if isinstance(map_location, (str, torch.device)) else "cpu"
    try:
        members = _members(path)
        if any(name.endswith("/constants.pkl") for name in members):
            raise TorchScript
        if path.suffix == ".safetensors":
            return _read_safetensors(path, device)
        if path.suffix == ".pkl" and not members:
            return read_pickle(path, InertUnpickler)
        return on_device(read_torch(path, weights), torch.device(device))
    except TorchScript as error:
        raise CheckpointError(
            f"{path} is a TorchScript archive, a compiled model without a state dict that could "
            "be loaded here: take the checkpoint that it was made from"
        ) from error
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a damaged file can raise any error, including panics of Rust
        raise CheckpointError(_explanation(path, error)) from error


class TorchScript(Exception):
    """The file is a compiled model."""


def on_device(value, device: torch.device):
    """Move the tensors of a checkpoint to a device."""
    if device.type == "cpu":
        return value
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return type(value)((key, on_device(item, device)) for key, item in value.items())
    if type(value) in (list, tuple):
        return type(value)(on_device(item, device) for item in value)
    return value


def _read_safetensors(path: Path, device) -> dict:
    open_regular(path).close()
    with safe_open(path, framework="pt", device=str(device)) as file:
        state_dict = OrderedDict((key, file.get_tensor(key)) for key in file.keys())
        meta = json.loads((file.metadata() or {}).get("meta") or "{}")
    check_extent(meta, GRANTED + MULTIPLE * path.stat().st_size)
    return {"meta": meta, "state_dict": state_dict}


def _safetensors(checkpoint: dict, path: Path) -> bytes:
    more = sorted(set(checkpoint) - {"meta", "state_dict"})
    if more or "state_dict" not in checkpoint:
        raise CheckpointError(
            f"{path}: safetensors hold a state_dict and meta, and no {', '.join(map(str, more))}: "
            "`python tools/convert_checkpoint.py publish IN OUT.safetensors` keeps the weights"
        )
    # safetensors does not allow two names for one tensor.
    tensors = {key: value.clone() for key, value in checkpoint["state_dict"].items()}
    meta, _ = plain(checkpoint.get("meta", {}))
    # the header is text: tensors and bytes in meta become null
    text = json.dumps(meta, skipkeys=True, default=lambda value: None)
    return save(tensors, metadata={"meta": text, "format": "pt"})


def _explanation(path: Path, error: BaseException) -> str:
    """Why a file cannot be read, and what to do."""
    if isinstance(error, OSError):
        return f"{path} cannot be read: {error.strerror or error}"
    reason = printable(str(error).strip().partition("\n")[0][:200])
    if isinstance(error, ForeignName):
        name = reason.removeprefix("it names ")[:80]
        return f"{path} holds a tensor or array of a kind that is not read here ({name})"
    return (
        f"{path} cannot be read ({path.stat().st_size:,} bytes; {type(error).__name__}: {reason}): "
        "the file is truncated, damaged or no PyTorch checkpoint. Copy or download it again"
    )


def _members(path: Path) -> list[str]:
    """The members of a checkpoint's archive; none for other files and truncated archives."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError):
        return []


def missing_file_message(path: str) -> str:
    """The message for a missing checkpoint: where it is published, and where to put it."""
    name = Path(path).name
    origin = source_of(name)
    hint = f"\n  It is published at {origin}; download it and put it there." if origin else ""
    if url_of(name):
        to = "" if str(Path(path).parent) == "pretrain" else f" --to {Path(path).parent}"
        hint += f"\n  `python tools/zoo.py fetch {name}{to}` does it."
    return f"checkpoint not found: {path}{hint}"


def write_checkpoint(checkpoint: dict, path: str | os.PathLike) -> None:
    """Write a checkpoint under a temporary name, sync it, and move it into place.

    If anything fails, ``path`` has either its old content or all of the new content.

    Raises:
        CheckpointError: the disk is full, or a quota or size limit is reached.
    """
    path = Path(path)
    try:
        with replacing(path) as file:
            if path.suffix == ".safetensors":
                file.write(_safetensors(checkpoint, path))
            else:
                torch.save(checkpoint, file)
    except (OSError, RuntimeError) as error:
        reason = no_room(error)
        if reason is None:
            raise
        raise CheckpointError(
            f"{path} cannot be written: {reason}. Nothing was overwritten; {AFTER_NO_ROOM}"
        ) from error


def plain(value, where: str = "") -> tuple[object, list[str]]:
    """A copy of a checkpoint reduced to tensors and plain data.

    Returns:
        The copy, and the places and types of the objects that were left out.
    """
    if value is None or isinstance(value, (torch.Tensor, bool, int, float, complex, str, bytes)):
        return value, []
    if isinstance(value, np.generic):
        return value.item(), []
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return torch.from_numpy(value.astype(value.dtype.newbyteorder("="))), []
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, Foreign):
        return None, [f"{where} ({value.name})"]
    dropped: list[str] = []
    if isinstance(value, dict):
        copy = {}
        for key, item in value.items():
            plain_key, lost = plain(key)
            if lost or isinstance(key, torch.Tensor):
                name = key.name if isinstance(key, Foreign) else type(key).__name__
                dropped.append(f"{where}[{name}]")
                continue
            kept, lost = plain(item, f"{where}.{key}" if where else str(key))
            dropped += lost
            if kept is not None or item is None:
                copy[plain_key] = kept
        return copy, dropped
    if isinstance(value, (list, tuple, set)):
        pairs = [plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
        dropped = [name for _, lost in pairs for name in lost]
        return (tuple if isinstance(value, tuple) else list)(kept for kept, _ in pairs), dropped
    return None, [f"{where} ({type(value).__module__}.{type(value).__qualname__})"]
