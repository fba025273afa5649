"""Processes that find each other on a machine without a GPU, however they were started."""

import os
import random
import socket
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from mmcv.runner import get_dist_info, init_dist

from models_mm.errors import UserError
from models_mm.mmdet2.compat import launch

from .conftest import free_port, run_job, torchrun_environments

needs_cpu = pytest.mark.skipif(
    torch.cuda.is_available(), reason="the choice of gloo is for machines without a GPU"
)


@pytest.fixture(autouse=True)
def start_method():
    """``init_dist`` makes "spawn" the way in which the whole process starts others."""
    yield
    torch.multiprocessing.set_start_method(None, force=True)


def job_id_of_a_free_port() -> int:
    """A Slurm job whose port, 20000 + id % 20000, nobody uses."""
    while True:
        job = random.randrange(20000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", 20000 + job)):
                return job + 7 * 20000


def slurm_environments(processes: int) -> list[dict]:
    job = str(job_id_of_a_free_port())
    return [
        {
            "SLURM_PROCID": str(rank),
            "SLURM_NTASKS": str(processes),
            "SLURM_LOCALID": str(rank),
            "SLURM_JOB_ID": job,
            "MASTER_ADDR": "127.0.0.1",
        }
        for rank in range(processes)
    ]


@needs_cpu
def test_two_ranks_meet():
    jobs = {"pytorch": torchrun_environments(2), "slurm": slurm_environments(2)}
    environments = [{**e, "LAUNCHER": name} for name, job in jobs.items() for e in job]
    assert run_job("launch_job.py", environments=environments) == [
        "pytorch 0/2 gloo 11.0 0",
        "pytorch 1/2 gloo 11.0 1",
        "slurm 0/2 gloo 11.0 0",
        "slurm 1/2 gloo 11.0 1",
    ]


@pytest.fixture
def joined():
    """Join a job of one process by ``init_dist``; leave it afterwards."""
    before = dict(os.environ)

    def join(launcher, environment, **kwargs):
        os.environ.update(environment)
        init_dist(launcher, **kwargs)
        return get_dist_info()

    yield join
    if dist.is_initialized():
        dist.destroy_process_group()
    os.environ.clear()
    os.environ.update(before)


@needs_cpu
def test_slurm_asks_for_the_first_host(joined, tmp_path):
    scontrol = tmp_path / "scontrol"  # Slurm's own, as far as it is asked
    scontrol.write_text(
        '#!/bin/sh\n[ "$*" = "show hostnames n[1-2]" ] && printf "127.0.0.1\\nn2\\n"'
    )
    scontrol.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "SLURM_PROCID": "0",
        "SLURM_NTASKS": "1",
        "SLURM_NODELIST": "n[1-2]",
    }
    assert joined("slurm", environment, port=free_port()) == (0, 1)
    assert os.environ["MASTER_ADDR"] == "127.0.0.1"


@needs_cpu
def test_mpi(joined):
    environment = {
        "OMPI_COMM_WORLD_RANK": "0",
        "OMPI_COMM_WORLD_SIZE": "1",
        "OMPI_COMM_WORLD_LOCAL_RANK": "0",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    assert joined("mpi", environment) == (0, 1)
    assert dist.get_backend() == "gloo"


def test_unknown_launcher():
    with pytest.raises(ValueError, match="Invalid launcher type: ssh"):
        init_dist("ssh")


@pytest.fixture
def two_gpus(monkeypatch):
    """Two GPUs, as far as ``select_device`` looks; what it selects is recorded."""
    selected = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", selected.append)
    return selected


def test_too_few_gpus(two_gpus):
    with pytest.raises(UserError) as error:
        launch.select_device(local_rank=0, processes=4, backend="nccl")
    assert "4 processes were asked for on this machine, which has 2 GPU(s)" in str(error.value)
    assert "at most 2" in str(error.value)
    assert "CUDA_VISIBLE_DEVICES=" in str(error.value)
    assert two_gpus == []


def test_each_process_gets_its_gpu(two_gpus):
    assert [launch.select_device(rank, 2, "nccl") for rank in range(2)] == ["nccl", "nccl"]
    assert two_gpus == [0, 1]


@pytest.fixture
def start(monkeypatch):
    """Start a rank on a machine with GPUs: what it binds, and how it joins the process group."""

    def call(launcher: str, environment: dict, gpus: int) -> tuple:
        found = []
        job = ("SLURM_", "MASTER_", "LOCAL_", "RANK", "WORLD_SIZE")
        environ = {k: v for k, v in os.environ.items() if not k.startswith(job)} | environment
        # what the rank sets itself is undone too
        with mock.patch.dict(os.environ, environ, clear=True), monkeypatch.context() as patch:
            patch.setattr(torch.cuda, "device_count", lambda: gpus)
            patch.setattr(torch.cuda, "set_device", found.append)
            patch.setattr(
                dist, "init_process_group", lambda backend, **kw: found.append((backend, kw))
            )
            init_dist(launcher, backend="nccl", timeout=60)
            names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
            found.append([os.environ.get(name) for name in names])
        return tuple(found)

    return call


JOINED = ("nccl", {"timeout": 60})


def slurm_rank(rank: int, **more: str) -> dict:
    """A task of a job of two machines with two tasks each."""
    return {
        "SLURM_PROCID": str(rank),
        "SLURM_NTASKS": "4",
        "SLURM_LOCALID": str(rank % 2),
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_JOB_ID": "123456",
        "MASTER_ADDR": "n1",
        **more,
    }


def test_four_ranks_of_torchrun_bind_their_gpus(start):
    for rank in range(4):
        environment = {
            **{"RANK": str(rank), "WORLD_SIZE": "4", "LOCAL_RANK": str(rank)},
            **{"LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
        }
        where = [str(rank), "4", str(rank), "127.0.0.1", "29500"]
        assert start("pytorch", environment, gpus=4) == (rank, JOINED, where)


def test_four_tasks_of_slurm_bind_their_gpus(start):
    for rank in range(4):
        where = [str(rank), "4", str(rank % 2), "n1", "23456"]
        assert start("slurm", slurm_rank(rank), gpus=2) == (rank % 2, JOINED, where)


@pytest.mark.parametrize(
    "allocation",
    [
        {"SLURM_GPUS_PER_TASK": "1"},
        {"SLURM_GPUS_PER_TASK": "h100:1"},
        {"SLURM_GPUS_ON_NODE": "2"},  # --gpu-bind
    ],
)
def test_four_tasks_of_slurm_that_see_one_gpu_each(start, allocation):
    for rank in range(4):
        where = [str(rank), "4", str(rank % 2), "n1", "23456"]
        assert start("slurm", slurm_rank(rank, **allocation), gpus=1) == (0, JOINED, where)


def test_tasks_of_slurm_that_would_share_a_gpu_are_refused(start):
    with pytest.raises(UserError, match="2 processes were asked for on this machine, which has 1"):
        start("slurm", slurm_rank(0, SLURM_GPUS_ON_NODE="1"), gpus=1)


def test_processes_of_torchrun_in_a_task_of_slurm_do_not_share_its_gpu(start):
    task = {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_GPUS_PER_TASK": "1"}
    process = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    master = {"MASTER_ADDR": "n1", "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "x"}
    with pytest.raises(UserError, match="2 processes were asked for on this machine, which has 1"):
        start("pytorch", {**task, **process, **master}, gpus=1)


def test_apply_twice():
    launch.apply()
    launch.apply()
    assert launch.dist_utils._init_dist_slurm is launch.init_slurm
