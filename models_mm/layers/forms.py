"""Choose the form of an operator by device, number format and mode: the only place that does so.

Each operator has a plain form and, for some devices, a faster one that computes the same. Every
rule here needs a measurement that justifies it; docs/speed.md has them.
"""

import functools
from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch import Tensor

ONEDNN = torch.backends.mkldnn.is_available()
# With one thread, PyTorch computes a 1x1 convolution of fewer images by MKL.
ONEDNN_IMAGES = 16
# Hidden values of an MLP that fit into the cache of a core.
CACHED_VALUES = 2**20
# Bytes of keys and values that are gathered at a time. CPU, per thread: about the second-level
# cache of a core; a quarter of it is a tenth slower, four times as much up to a third slower. Other
# devices have not been measured: enough to fill the device with one launch.
CPU_GATHER_BYTES = 2 * 2**20
DEVICE_GATHER_BYTES = 128 * 2**20

# The rules, and whether each is switched off.
RULES: dict[str, bool] = {}


def rule(plain: Callable):
    """Register a function as a rule, with what it returns for the plain form."""

    def register(function: Callable) -> Callable:
        name = function.__name__
        RULES[name] = False

        @functools.wraps(function)
        def choose(*args):
            return plain(*args) if RULES[name] else function(*args)

        return choose

    return register


@contextmanager
def plain_form(*names: str):
    """Use the plain form for the rules with these names, whatever the device: for measurements."""
    before = dict(RULES)
    RULES.update(dict.fromkeys(names, True))
    try:
        yield
    finally:
        RULES.update(before)


def never(*_) -> bool:
    """What a rule returns for the plain form if it tells whether to use the faster one."""
    return False


@rule(plain=lambda x: x)
def fastest_layout(x: Tensor) -> Tensor:
    """Bring images (N, C, H, W) to the memory layout in which convolutional networks run fastest.

    On CPUs, upsampling, norms and 1x1 convolutions vectorise over channels.
    """
    return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x


@rule(plain=never)
def linear_as_convolution(x: Tensor, weight: Tensor) -> bool:
    """Whether a linear layer of tokens (N, H, W, C) runs as a 1x1 convolution.

    On the CPU, PyTorch computes float32 matrix products by MKL, which does not use AVX-512 on AMD
    processors, and convolutions by oneDNN, which does.
    """
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and ONEDNN
        and x.shape[:2].numel() >= ONEDNN_IMAGES
        and x.is_contiguous()
        and not torch.is_autocast_enabled("cpu")
    )


@rule(plain=never)
def onednn_product(a: Tensor) -> bool:
    """Whether oneDNN computes a matrix product instead of the library behind ``torch.mm``."""
    return a.device.type == "cpu" and a.dtype == torch.float32 and torch.backends.mkldnn.enabled


@rule(plain=lambda x, hidden: None)
def mlp_rows(x: Tensor, hidden: int) -> int | None:
    """Rows (N * H) of tokens (N, H, W, C) that an MLP processes at a time; None: all at once.

    Without gradients, the hidden values of a few rows stay in the cache of a CPU's core.
    """
    if torch.is_grad_enabled() or x.device.type != "cpu":
        return None
    return max(CACHED_VALUES // (x.shape[2] * hidden), ONEDNN_IMAGES)


def gather_bytes(device: torch.device) -> int:
    """Bytes of keys and values that routed attention gathers at a time."""
    cpu = device.type == "cpu"
    return CPU_GATHER_BYTES * torch.get_num_threads() if cpu else DEVICE_GATHER_BYTES
