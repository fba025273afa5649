"""What the Triton kernels need of a GPU: compiled ahead of time, on a machine without one.

    python -m models_mm.layers.kernel_resources

prints a line for each kernel, number format and window that a BiFormer-S has at 800x1344.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from . import routing_kernels as kernels

# Bytes of shared memory that a block of threads may have, by compute capability.
SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
# Pixels of a window and windows that it attends to, in the routed stages at 800x1344.
WINDOWS = {273: 1, 77: 4, 24: 16}
HEAD = 32
NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
FORMS = {
    "forward": kernels._forward,
    "backward, queries": kernels._backward_queries,
    "backward, keys": kernels._backward_keys,
}


class Resources(NamedTuple):
    """What one compiled kernel needs.

    Attributes:
        kernel: one of ``FORMS``.
        dtype: of queries, keys and values.
        pixels: of a window.
        capability: of the GPU, times 10.
        warps: per block of threads.
        registers: per thread.
        spilled: bytes of local memory per thread, where registers do not suffice.
        shared: bytes of shared memory per block of threads.
    """

    kernel: str
    dtype: str
    pixels: int
    capability: int
    warps: int
    registers: int
    spilled: int
    shared: int


def source_of(form: str, dtype: torch.dtype, pixels: int, topk: int) -> tuple[ASTSource, dict]:
    """A kernel with its types, as Triton specialises it for maps that start at multiples of 16
    elements; and its compiler options."""
    kernel = FORMS[form]
    own, walked = kernels.tile(pixels, dtype), kernels.walked(topk * pixels, dtype)
    queries, keys = (walked, own) if form == "backward, keys" else (own, walked)
    constants = kernels.settings(dtype, HEAD, HEAD**-0.5, queries, keys)
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
    signature, attributes = {}, {}
    for position, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name in ("index", "rows", "firsts"):
            signature[name] = "*i32"
        elif name in ("lse", "mean"):
            signature[name] = "*fp32"
        elif re.fullmatch(r"[qkv]|out|grad_(out|q|k|v)", name):
            signature[name] = f"*{NAMES[dtype]}"
        else:
            signature[name] = "i32"
        if signature[name].startswith("*") or re.fullmatch(r"(q|k|v|out|grad)_[nyx]", name):
            attributes[(position,)] = [["tt.divisibility", 16]]
    return ASTSource(kernel, signature, constants, attributes), options


def compiled(form: str, dtype: torch.dtype, pixels: int, topk: int, capability: int) -> Resources:
    """Compile a kernel for a GPU, which need not be there."""
    source, options = source_of(form, dtype, pixels, topk)
    found = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(found.asm["cubin"])
        file.flush()
        command = [tool, "--dump-resource-usage", file.name]
        usage = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", usage))
    return Resources(
        *(form, NAMES[dtype], pixels, capability, options["num_warps"], int(figures["REG"])),
        *(int(figures["STACK"]) + int(figures["LOCAL"]), found.metadata.shared),
    )


def all_resources(capabilities=tuple(SHARED_MEMORY)) -> list[Resources]:
    """Compile everything that is used at 800x1344, for all GPUs."""
    return [
        compiled(form, dtype, pixels, topk, capability)
        for form in FORMS
        for dtype in NAMES
        for pixels, topk in WINDOWS.items()
        for capability in capabilities
    ]


def table(rows: list[Resources]) -> str:
    """The resources as a table in Markdown."""
    heads = "kernel, dtype, pixels, sm, warps, registers, spilled B, shared B".split(", ")
    lines = [heads, ["---"] * len(heads), *([str(field) for field in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    print(table(all_resources(tuple(map(int, sys.argv[1:])) or tuple(SHARED_MEMORY))))
