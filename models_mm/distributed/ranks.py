"""What the processes of a job tell one another beside gradients; each works in one process too."""

import io
import os
from pathlib import Path

import torch
import torch.distributed as dist
from mmcv.runner import get_dist_info


def machine() -> str | None:
    """What processes have in common that know each other by process ids; ``None``: not to be told.

    Host names do not do: containers have their own ids and may have their machine's name.
    """
    try:
        space = os.stat("/proc/self/ns/pid").st_ino
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {space}"
    except OSError:
        return None


def _device() -> torch.device:
    on_gpu = dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


def gather(value) -> list:
    """The value of every rank, by rank; tensors and plain data, nothing that needs unpickling."""
    world = get_dist_info()[1]
    if world == 1:
        return [value]
    file = io.BytesIO()
    torch.save(value, file)
    mine = torch.frombuffer(file.getbuffer(), dtype=torch.uint8).to(_device())
    sizes = [torch.zeros(1, dtype=torch.int64, device=mine.device) for _ in range(world)]
    dist.all_gather(sizes, torch.tensor([len(mine)], device=mine.device))
    longest = int(max(sizes))
    parts = [torch.zeros(longest, dtype=torch.uint8, device=mine.device) for _ in range(world)]
    dist.all_gather(parts, torch.nn.functional.pad(mine, (0, longest - len(mine))))
    return [
        torch.load(io.BytesIO(bytes(part[: int(size)].cpu().numpy())), weights_only=True)
        for part, size in zip(parts, sizes, strict=True)
    ]


def any_rank(*flags: bool) -> list[bool]:
    """For each flag whether it is set on any rank."""
    if get_dist_info()[1] == 1:
        return list(flags)
    values = torch.tensor(flags, dtype=torch.int32, device=_device())
    dist.all_reduce(values, dist.ReduceOp.MAX)
    return [bool(value) for value in values.tolist()]


def from_rank_0(value):
    """Rank 0's value, on every rank."""
    return gather(value if get_dist_info()[0] == 0 else None)[0]


def send_to_first(data: bytes) -> None:
    """Give rank 0 bytes that it asks for with :func:`receive`."""
    mine = torch.frombuffer(bytearray(data), dtype=torch.uint8).to(_device())
    dist.send(torch.tensor([len(mine)], device=mine.device), 0)
    dist.send(mine, 0)


def receive(rank: int) -> bytes:
    """On rank 0, what a rank sends."""
    size = torch.zeros(1, dtype=torch.int64, device=_device())
    dist.recv(size, rank)
    data = torch.empty(int(size), dtype=torch.uint8, device=size.device)
    dist.recv(data, rank)
    return data.cpu().numpy().tobytes()
