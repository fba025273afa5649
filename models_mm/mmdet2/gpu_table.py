"""The table of ``gpu-check``: time, images per second and memory of a model in all formats."""

import argparse
import statistics
import warnings

import torch

from models_mm.mmdet2.benchmark import DTYPES, Candidate, measure_times

# What is measured: mode and images per batch. Training needs two images for norms.
CASES = (("train", 2), ("infer", 1), ("infer", 8))
ROUNDS = 7


def measure(target: str, device: str, shape: tuple[int, int], dtypes=tuple(DTYPES)) -> list[dict]:
    """Measure a target of the benchmark in all cases.

    Args:
        target: such as ``biformer_s`` or ``biformer_s:routing_kernel``.
        device: ``cuda`` or ``cpu``.
        shape: height and width of the images.
        dtypes: names of number formats.

    Returns:
        A row per case and format: ``ms`` is the median of some rounds, ``waits`` how often a
        training step waits for the GPU; a case that does not fit into memory has only ``failed``.

    Raises:
        UserError: there is no such target.
    """
    args = argparse.Namespace(
        device=device, shape=shape, batch=1, dtype=dtypes[0], threads=None, rounds=ROUNDS
    )
    candidate = Candidate(target, args)
    rows = []
    for dtype in dtypes:
        for mode, batch in CASES:
            if mode == "train" and candidate.fused:
                continue
            args.dtype, args.batch = dtype, batch
            candidate.image = torch.randn(batch, 3, *shape, device=device)
            row = dict(target=target, mode=mode, batch=batch, dtype=dtype)
            try:
                rows.append({**row, **figures(candidate, mode, args)})
            except torch.cuda.OutOfMemoryError:
                rows.append({**row, "failed": "out of memory"})
                candidate.model.zero_grad(set_to_none=True)
                torch.cuda.empty_cache()
    return rows


def figures(candidate: Candidate, mode: str, args: argparse.Namespace) -> dict:
    """The figures of one case."""
    found = {}
    if args.device == "cuda":
        getattr(candidate, mode)()  # what is allocated once
        base = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        found["waits"] = waits(candidate, mode)
        found["MB"] = (torch.cuda.max_memory_allocated() - base) / 2**20
    seconds = statistics.median(measure_times([candidate], mode, args)[candidate.name])
    return {"ms": 1e3 * seconds, "images/s": args.batch / seconds, **found}


def waits(candidate: Candidate, mode: str) -> int:
    """How often one step waits for the GPU."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            getattr(candidate, mode)()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in said)
