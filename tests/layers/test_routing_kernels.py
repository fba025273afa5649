"""The Triton kernels of routing attention, as far as a machine without a GPU can test them."""

import sys

import pytest
import torch

pytest.importorskip("triton")

from models_mm.layers import kernel_resources  # noqa: E402


def interpreted(run_tool, *which: str) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]
    done = run_tool(
        *command, "tests/layers/interpreted.py", *which, timeout=3000, TRITON_INTERPRET="1"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_kernels_compute_the_equation(run_tool):
    assert "2 passed" in interpreted(run_tool, "-k", "gradcheck or views")


@pytest.mark.slow
def test_kernels_compute_the_equation_in_all_windows(run_tool):
    interpreted(run_tool)


@pytest.mark.slow
@pytest.mark.parametrize("capability", kernel_resources.SHARED_MEMORY)
@pytest.mark.parametrize("tf32", [False, True])
def test_kernels_compile_and_fit(capability, tf32):
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        found = kernel_resources.all_resources((capability,))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    for needed in found:
        assert needed.spilled == 0, needed
        assert needed.shared <= kernel_resources.SHARED_MEMORY[capability], needed


def test_a_kernel_compiles():
    needed = kernel_resources.compiled("forward", torch.bfloat16, 77, 4, 90)
    assert needed.spilled == 0 and 0 < needed.registers <= 255
