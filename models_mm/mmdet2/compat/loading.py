"""Checkpoints that mmcv and mmdet read: through the package's loader, never by free unpickling.

mmcv 1.7 calls ``torch.load`` without ``weights_only`` (its default changed in torch 2.6, and
before that a file could run code), skips what does not fit with a warning, and finds no weights
in a file that keeps them under ``'model'``.
"""

import functools
import os
from urllib.parse import urlparse

import mmcv.runner.checkpoint as checkpoint
import torch
from mmcv.cnn.utils.weight_init import INITIALIZERS, update_init_info
from mmcv.runner import CheckpointLoader
from torch import nn
from torch.torch_version import TorchVersion

from models_mm.checkpoints import fetch as fetching
from models_mm.checkpoints import load_checkpoint, load_pretrained, read_checkpoint
from models_mm.mmdet2.compat.replace import replace_everywhere

_torch_load = torch.load
_load_checkpoint = checkpoint.load_checkpoint


def load_from_local(filename: str, map_location=None) -> dict:
    """A checkpoint file on this machine, read without running what it brings along."""
    return read_checkpoint(filename, map_location=map_location)


def load_url(
    url: str,
    model_dir: str | None = None,
    map_location=None,
    progress: bool = True,
    check_hash: bool = False,
    file_name: str | None = None,
) -> dict:
    """A checkpoint by URL, kept in torch's cache like ``torch.hub.load_state_dict_from_url``.

    Raises:
        CheckpointError: it cannot be downloaded or read.
    """
    name = file_name or os.path.basename(urlparse(url).path)
    found = torch.hub.HASH_REGEX.search(name) if check_hash else None
    file = fetching.fetch(url, model_dir, name, sha256=found.group(1) if found else "")
    return read_checkpoint(file, map_location=map_location)


class PretrainedInit:
    """mmcv's ``init_cfg=dict(type='Pretrained', checkpoint=...)``, read by this package.

    Args:
        checkpoint: file or URL.
        prefix: take only the entries below this prefix, e.g. ``'backbone.'``.
        map_location: as in ``torch.load``.
    """

    def __init__(self, checkpoint: str, prefix: str | None = None, map_location: str = "cpu"):
        self.checkpoint = checkpoint
        self.prefix = prefix
        self.map_location = map_location

    def __call__(self, module: nn.Module) -> None:
        load_pretrained(module, self.checkpoint, self.prefix, self.map_location)
        if hasattr(module, "_params_init_info"):  # the log of where every parameter came from
            update_init_info(module, f"{type(self).__name__}: load from {self.checkpoint}")


@functools.wraps(torch.load)
def load(*args, weights_only: bool | None = None, **kwargs):
    """``torch.load`` with the default that torch 2.6 gave it."""
    return _torch_load(*args, weights_only=weights_only is not False, **kwargs)


def apply() -> None:
    if TorchVersion(torch.__version__) < (2, 6):
        # for mmcv's other loaders (s3, pavi, local aliases), which call it themselves
        torch.load = load
    CheckpointLoader.register_scheme("", loader=load_from_local, force=True)
    checkpoint.load_url = load_url
    INITIALIZERS.register_module("Pretrained", module=PretrainedInit, force=True)
    replace_everywhere(_load_checkpoint, load_checkpoint)
    fetching.read_other_url = CheckpointLoader.load_checkpoint
