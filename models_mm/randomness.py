"""The states of all random number generators of a process, taken, given back and borrowed."""

import random
from contextlib import contextmanager

import numpy as np
import torch


def capture() -> dict:
    """Python's, NumPy's and torch's random states, as tensors and plain data."""
    version, words, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state()
    state = {
        "python": [version, torch.tensor(words), gauss],
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore(state: dict) -> None:
    """Give back what :func:`capture` took."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def seeded(*numbers: int):
    """Random numbers that depend on ``numbers`` alone, leaving the process's own untouched.

    The generators of GPUs are not concerned: this is for data.
    """
    python, numpy, generator = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seeds = np.random.SeedSequence(numbers).generate_state(4)
    random.seed(int(seeds[0]))
    np.random.seed(seeds[1:3])
    torch.default_generator.manual_seed(int(seeds[3]))
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(generator)


@contextmanager
def untouched():
    """Whatever is drawn inside, the process's random states are afterwards what they were."""
    state = capture()
    try:
        yield
    finally:
        restore(state)
