"""What the ranks of a job tell each other, except gradients. Everything works in one process too.

PyTorch's collectives of objects are not used: they unpickle what the others send, and an unpickled
object can run code.
"""

import io
import os
from pathlib import Path

import torch
import torch.distributed as dist

# On GPUs, what waits for all their work is done once in so many iterations.
GPU_ITERATIONS = 10


def rank_and_world_size() -> tuple[int, int]:
    """The rank of this process and the number of ranks; (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def machine() -> str | None:
    """An identity that processes share when they can find each other by process id.

    Host names do not do: containers have their own process ids, and may have their machine's name.

    Returns:
        ``None`` where the system does not tell.
    """
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {namespace}"
    except OSError:
        return None


def _device() -> torch.device:
    """Where the process group has its tensors."""
    on_gpu = dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


def gather(value) -> list:
    """The value of every rank, in the order of ranks: tensors and plain data."""
    world_size = rank_and_world_size()[1]
    if world_size == 1:
        return [value]
    file = io.BytesIO()
    torch.save(value, file)
    own = torch.frombuffer(file.getbuffer(), dtype=torch.uint8).to(_device())
    sizes = [torch.zeros(1, dtype=torch.int64, device=own.device) for _ in range(world_size)]
    dist.all_gather(sizes, torch.tensor([len(own)], device=own.device))
    longest = int(max(sizes))
    parts = [torch.zeros(longest, dtype=torch.uint8, device=own.device) for _ in range(world_size)]
    dist.all_gather(parts, torch.nn.functional.pad(own, (0, longest - len(own))))
    return [
        torch.load(io.BytesIO(bytes(part[: int(size)].cpu().numpy())), weights_only=True)
        for part, size in zip(parts, sizes, strict=True)
    ]


def any_rank(*flags: bool) -> list[bool]:
    """For each flag whether it is set on any rank."""
    if rank_and_world_size()[1] == 1:
        return list(flags)
    values = torch.tensor(flags, dtype=torch.int32, device=_device())
    dist.all_reduce(values, dist.ReduceOp.MAX)
    return [bool(value) for value in values.tolist()]


def any_rank_at(iteration: int, *flags: bool) -> list[bool]:
    """:func:`any_rank` in an iteration, so that all ranks do the same: each has its own clock.

    On GPUs an answer waits for all their work: few iterations ask, and in the others none is set.
    """
    waits = rank_and_world_size()[1] > 1 and _device().type == "cuda"
    return [False] * len(flags) if waits and iteration % GPU_ITERATIONS else any_rank(*flags)


def from_rank_0(value):
    """The value of rank 0, on every rank."""
    return gather(value if rank_and_world_size()[0] == 0 else None)[0]


def send_to_rank_0(data: bytes) -> None:
    """Send bytes that rank 0 asks for with :func:`receive_from`."""
    own = torch.frombuffer(bytearray(data), dtype=torch.uint8).to(_device())
    dist.send(torch.tensor([len(own)], device=own.device), 0)
    dist.send(own, 0)


def receive_from(rank: int) -> bytes:
    """On rank 0, the bytes that a rank sends."""
    size = torch.zeros(1, dtype=torch.int64, device=_device())
    dist.recv(size, rank)
    data = torch.empty(int(size), dtype=torch.uint8, device=size.device)
    dist.recv(data, rank)
    return data.cpu().numpy().tobytes()
