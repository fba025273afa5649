"""Choose the form of an operator by device, number format and mode: the only place that does so.

Each operator has a plain form and, for some devices, a faster one that computes the same. Every
rule here needs a measurement that justifies it; docs/speed.md has them. A rule that no measurement
justifies yet is off, unless the environment variable ``MODELS_MM_FORMS`` names it. ``torch.export``
gets the plain forms, which do not depend on a device.
"""

import functools
import importlib.util
import os
from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch import Tensor

from models_mm.errors import UserError, did_you_mean

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

# Widths of a head that the kernels of routed attention can do: powers of two from 16 on.
KERNEL_WIDTHS = (16, 32, 64, 128)

# The rules, and whether each is on.
RULES: dict[str, bool] = {}


def rule(plain: Callable, on: bool = True):
    """Register a function as a rule.

    Args:
        plain: returns for the same arguments what stands for the plain form.
        on: whether the rule is on without being asked for.
    """

    def register(function: Callable) -> Callable:
        name = function.__name__
        RULES[name] = on

        @functools.wraps(function)
        def choose(*args):
            fast = RULES[name] and not torch.compiler.is_exporting()
            return function(*args) if fast else plain(*args)

        return choose

    return register


@contextmanager
def use_forms(**rules: bool):
    """Switch rules on or off: for measurements and tests."""
    before = dict(RULES)
    RULES.update(rules)
    try:
        yield
    finally:
        RULES.update(before)


def never(*_) -> bool:
    """What a rule returns for the plain form if it tells whether to use the faster one."""
    return False


@rule(plain=lambda: True)
def traceable() -> bool:
    """Whether operators run in forms that can be traced once for all batches and image sizes.

    These store more, and do not skip what no output needs.
    """
    return False


def round_up(size: int, divisor: int) -> int:
    """The next multiple, in the form of which ``torch.export`` knows best what divides it."""
    return (size + divisor - 1) // divisor * divisor


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


@rule(plain=never)
def separate_projections(x: Tensor) -> bool:
    """Whether queries, keys and values (N, H, W, C) are three products instead of one.

    On CPUs, each of them is then contiguous for what follows. GPUs start one kernel instead of
    three.
    """
    return x.device.type == "cpu"


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


@rule(plain=never, on=False)
def routing_kernel(q: Tensor, heads: int) -> bool:
    """Whether routed attention of queries (N, H, W, C) runs as Triton kernels.

    Raises:
        UserError: triton is not installed.
    """
    on_gpu = q.device.type == "cuda" or kernels_are_interpreted()
    if not on_gpu or q.shape[3] // heads not in KERNEL_WIDTHS:
        return False
    if importlib.util.find_spec("triton") is None:
        raise UserError(
            "routing_kernel (MODELS_MM_FORMS) needs triton, which is missing: pip install triton"
        )
    return True


def kernels_are_interpreted() -> bool:
    """Whether Triton runs kernels on the CPU, for tests."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def allows_tf32(convolutions: bool = False) -> bool:
    """Whether PyTorch may round the factors of float32 products on a GPU to 10 bits.

    Args:
        convolutions: those of convolutions.
    """
    backends = torch.backends
    of = backends.cudnn if convolutions else backends.cuda.matmul
    newer = getattr(of, "conv", None) if convolutions else of
    precision = getattr(newer, "fp32_precision", None)  # PyTorch 2.9 and newer
    return of.allow_tf32 if precision is None else precision == "tf32"


def switch_on(names: str) -> None:
    """Switch on the rules of a list that commas separate.

    Raises:
        UserError: there is no such rule.
    """
    for name in filter(None, (name.strip() for name in names.split(","))):
        if name not in RULES:
            hint = did_you_mean(name, RULES)
            raise UserError(f"MODELS_MM_FORMS={names}: {name} is no rule{hint}")
        RULES[name] = True


switch_on(os.environ.get("MODELS_MM_FORMS", ""))
