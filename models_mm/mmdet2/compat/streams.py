"""Copies to a GPU: mmcv 1.7 hands ``_get_stream`` an int, torch >= 2.1 wants a ``torch.device``."""

import mmcv.parallel._functions as functions
import torch
from torch.nn.parallel._functions import _get_stream


def get_stream(device: int | torch.device):
    """The background copy stream of a device, given by index or as ``torch.device``."""
    if isinstance(device, int):
        device = torch.device("cpu") if device < 0 else torch.device("cuda", device)
    if device.type == "cuda" and not torch.cuda.is_available():
        return None  # torch < 2.5 would look the device up in an empty list
    return _get_stream(device)


def apply() -> None:
    functions._get_stream = get_stream
