"""One rank of the jobs of test_launch.py: joins by ``init_dist`` and talks to the others."""

import models_mm  # isort: skip  # noqa: F401

import os

import ranks
import torch
import torch.distributed as dist
from mmcv.runner import get_dist_info, init_dist


def main():
    init_dist(os.environ["LAUNCHER"], backend="nccl")
    rank, world_size = get_dist_info()
    total = torch.tensor([10.0**rank])
    dist.all_reduce(total)
    launcher, local_rank = os.environ["LAUNCHER"], os.environ["LOCAL_RANK"]
    # in one piece: all ranks share the standard output
    line = f"{launcher} {rank}/{world_size} {dist.get_backend()} {total.item()} {local_rank}\n"
    os.write(1, line.encode())
    dist.destroy_process_group()


if __name__ == "__main__":
    ranks.run(main)
