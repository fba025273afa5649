"""Which form of an operator runs: the one place where device, number format and mode decide.

Each operator has a plain form and, for some devices, a faster one that computes the same. A rule
here stays only with a figure that justifies it; docs/speed.md has them.
"""

import torch
from torch import Tensor

ONEDNN = torch.backends.mkldnn.is_available()
# PyTorch leaves a 1x1 convolution of fewer images to MKL when it has one thread.
ONEDNN_IMAGES = 16
# Values of the hidden part of an MLP that stay in a core's cache.
CACHED_VALUES = 2**20
# Bytes of gathered keys and values at a time. CPU, per thread: about a core's second-level cache;
# four times less costs a tenth, four times more up to a third. Elsewhere nothing has been measured:
# enough to fill the device with one launch.
CPU_GATHER_BYTES = 2 * 2**20
DEVICE_GATHER_BYTES = 128 * 2**20


def fastest_layout(x: Tensor) -> Tensor:
    """Images (N, C, H, W) in the memory layout in which networks of convolutions run fastest.

    On CPUs upsampling, norms and 1x1 convolutions vectorise over channels.
    """
    return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x


def linear_as_convolution(x: Tensor, weight: Tensor) -> bool:
    """Whether a linear layer of tokens (N, H, W, C) runs as a 1x1 convolution.

    PyTorch sends float32 matrix products on the CPU to MKL, which does without AVX-512 on AMD's
    processors, and convolutions to oneDNN, which uses it.
    """
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and ONEDNN
        and x.shape[:2].numel() >= ONEDNN_IMAGES
        and x.is_contiguous()
        and not torch.is_autocast_enabled("cpu")
    )


def onednn_product(a: Tensor) -> bool:
    """Whether a product of matrices goes to oneDNN instead of the library behind ``torch.mm``."""
    return a.device.type == "cpu" and a.dtype == torch.float32 and torch.backends.mkldnn.enabled


def two_depthwise_halves(x: Tensor) -> bool:
    """Whether a depthwise convolution with two outputs per channel runs as two with one each.

    oneDNN has a fast kernel for one output per channel only.
    """
    return x.device.type == "cpu"


def mlp_rows(x: Tensor, hidden: int) -> int | None:
    """Rows (N * H) of tokens (N, H, W, C) that an MLP takes at a time; None: all at once.

    Without gradients the hidden values of a few rows do not leave the cache.
    """
    if torch.is_grad_enabled():
        return None
    return max(CACHED_VALUES // (x.shape[2] * hidden), ONEDNN_IMAGES)


def gather_bytes(device: torch.device) -> int:
    """Bytes of keys and values that routed attention gathers at a time."""
    cpu = device.type == "cpu"
    return CPU_GATHER_BYTES * torch.get_num_threads() if cpu else DEVICE_GATHER_BYTES
