"""What training and testing do alike: processes, devices, data sets, models."""

import argparse
import difflib
import json
import os
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta

import torch
from mmcv import Config
from mmcv.cnn.utils import revert_sync_batchnorm
from mmcv.runner import get_dist_info, init_dist
from mmdet.datasets import CocoDataset, build_dataset
from mmdet.models import build_detector
from mmdet.utils import get_device, rfnext_init_model, setup_multi_processes
from torch import nn

from models_mm.config_files import find_config
from models_mm.distributed import liveness, signals, watchdog
from models_mm.errors import UserError
from models_mm.messages import say_once
from models_mm.mmdet2 import work_dirs
from models_mm.mmdet2.configs import compatible, data_paths
from models_mm.mmdet2.execution import prepare_execution, settle_precision


def prepare(cfg: Config, args: argparse.Namespace) -> None:
    """Settle the work dir and how processes start; the data workers may be forked then.

    Raises:
        UserError: a launcher has started several processes that do not know of each other.
    """
    if args.work_dir:
        cfg.work_dir = args.work_dir
    elif not cfg.get("work_dir"):
        cfg.work_dir = os.path.join("work_dirs", find_config(args.config).stem)
    refuse_unasked_torchrun(args.launcher)
    settle_precision(cfg)
    # the data workers are the parallelism; set so that mmdet has nothing to warn of
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("MKL_NUM_THREADS", "1")
    setup_multi_processes(compatible(cfg))
    signals.listen()


def refuse_unasked_torchrun(launcher: str) -> None:
    """Refuse to be one of several processes that do not know of each other.

    Raises:
        UserError: torchrun has started them, and ``launcher`` is ``"none"``.
    """
    number = os.environ.get("WORLD_SIZE", "1")
    if launcher == "none" and "TORCHELASTIC_RUN_ID" in os.environ and number != "1":
        raise UserError(
            f"torchrun has started {number} processes, each of which would do the whole job: give "
            "--launcher pytorch too"
        )


def join(cfg: Config, args: argparse.Namespace) -> bool:
    """Settle the device and join the process group of a distributed job.

    Threads begin here: what is to be forked has been.

    Returns:
        Whether the job is distributed.
    """
    signals.start_handling()
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun's, with and without tools/launch.py
        launcher = os.getppid()
        liveness.require("the launcher", lambda: os.getppid() != launcher)
    liveness.start()
    if getattr(args, "deterministic", False):  # cuBLAS reads it when it is first used
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    wanted, cfg.gpu_ids = cfg.get("gpu_ids"), [chosen_gpu(args)]
    settle_device(cfg)
    if cfg.device == "cpu" and cfg.get("fp16") is not None:
        # mmcv's mixed precision is for GPUs: here it would halve the images and nothing else
        warnings.warn(
            "fp16 of the config needs a GPU: float32 on this CPU (amp=bfloat16 works here)",
            stacklevel=2,
        )
        cfg.fp16 = None
    distributed = args.launcher != "none"
    if distributed:
        init_dist(args.launcher, **process_group(cfg, args.launcher))
        cfg.gpu_ids = range(get_dist_info()[1])
    elif cfg.device == "cuda":
        torch.cuda.set_device(cfg.gpu_ids[0])  # its random state is the one to keep
    if wanted is not None and list(wanted) != list(cfg.gpu_ids):
        say_once(f"config: gpu_ids={wanted} is not used: --gpu-id, or the launcher, chooses")
    if get_dist_info()[0] == 0:
        work_dirs.make(cfg.work_dir)
    return distributed


def chosen_gpu(args: argparse.Namespace) -> int:
    """The GPU that the command line asks for; 0 on machines without any.

    Raises:
        UserError: there is no such GPU, or several are asked for.
    """
    if args.gpu_ids and len(args.gpu_ids) > 1 or getattr(args, "gpus", None) not in (None, 1):
        raise UserError("one process uses one GPU: for several, bash dist_train.sh CONFIG GPUS")
    chosen = args.gpu_ids[0] if args.gpu_ids else args.gpu_id
    there = torch.cuda.device_count()
    if args.launcher == "none" and not 0 <= chosen < max(there, 1):
        has = f"the GPUs 0 to {there - 1}" if there else "no GPU"
        raise UserError(f"--gpu-id {chosen}: this machine has {has}")
    return chosen


def own_gpu(cfg: Config) -> list[int] | None:
    """The GPU of this process, as DistributedDataParallel wants it; None on a CPU."""
    return [torch.cuda.current_device()] if cfg.device == "cuda" else None


def settle_device(cfg: Config) -> None:
    """The device is the machine's; cuDNN looks for its fastest kernels if the config says so."""
    wanted, cfg.device = cfg.get("device"), get_device()
    if wanted not in (None, cfg.device):
        warnings.warn(
            f"device={wanted!r} of the config is not used: this machine's is {cfg.device} "
            "(CUDA_VISIBLE_DEVICES=-1 hides its GPUs)",
            stacklevel=2,
        )
    torch.backends.cudnn.benchmark = bool(cfg.get("cudnn_benchmark", False))


def process_group(cfg: Config, launcher: str) -> dict:
    """``dist_params``; a ``timeout`` is in seconds, by default later than the watchdog's."""
    settings = {"backend": "nccl", **cfg.get("dist_params", {})}
    if launcher != "slurm" and settings.pop("port", None) is not None:
        say_once("config: dist_params.port is for Slurm and not used: MASTER_PORT is the port here")
    settings.setdefault("timeout", watchdog.timeout_of(cfg) + 60)
    return {**settings, "timeout": timedelta(seconds=settings["timeout"])}


def build_model(cfg: Config) -> nn.Module:
    """The detector of a config, ready for the device at hand.

    SyncBN, which has no CPU form, becomes BatchNorm there: the same mathematics in one process,
    statistics per process in several.

    Raises:
        UserError: an unknown type or keyword in the config.
    """
    model = built(
        "model",
        lambda: build_detector(cfg.model, cfg.get("train_cfg"), cfg.get("test_cfg")),
    )
    rfnext_init_model(model, cfg=cfg)
    if cfg.device == "cpu":
        model = revert_sync_batchnorm(model)
    return prepare_execution(model, cfg)


def build_data(cfg: dict, split: str, default_args: dict | None = None):
    """A data set of a config.

    Raises:
        UserError: it cannot be read or has no images.
    """
    files = ", ".join(path for key, path in data_paths(cfg) if key == "ann_file")
    dataset = built(f"data.{split} ({files})", lambda: build_dataset(cfg, default_args))
    if len(dataset) == 0:
        raise UserError(
            f"data.{split} has no usable images ({files}): it is empty, or none of its categories "
            f"is among the classes of the config ({', '.join(map(str, dataset.CLASSES[:3]))}, ...)"
        )
    if split == "train":
        check_classes(dataset, files)
    return dataset


def check_classes(dataset, files: str) -> None:
    """Refuse ``classes=`` of training data with a name that no annotation file has.

    The classes of a data set's type (COCO's 80), when the config names none, may lack some.

    Args:
        dataset: mmdet's, or a wrapper.
        files: what messages call its annotations.

    Raises:
        UserError: there is such a name; says which ones are similar.
    """
    named, known = [], set()
    for part in parts_of(dataset):
        if isinstance(part, CocoDataset) and part.CLASSES is not type(part).CLASSES:
            named += part.CLASSES
        if isinstance(part, CocoDataset):
            known |= {category["name"] for category in part.coco.cats.values()}
    missing = [name for name in dict.fromkeys(named) if name not in known]
    if missing:
        similar = difflib.get_close_matches(missing[0], known, n=1, cutoff=0.4)
        hint = f"did you mean {similar[0]!r}?" if similar else f"it has {', '.join(sorted(known))}"
        raise UserError(
            f"data.train ({files}): its annotations have no category of the name "
            f"{', '.join(map(repr, missing[:5]))}, which classes= of the config names; {hint}"
        )


def parts_of(dataset) -> Iterator:
    """The data sets below wrappers that repeat, join or mix them."""
    inner = [getattr(dataset, "dataset", None), *(getattr(dataset, "datasets", None) or ())]
    inner = [part for part in inner if part is not None]
    if not inner:
        yield dataset
    for part in inner:
        yield from parts_of(part)


def built(what: str, build: Callable):
    """Call a builder of mmcv's registries; what it raises names the type and the reason."""
    try:
        return build()
    except UserError:
        raise
    except (MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:  # a constructor that is given nonsense can raise anything
        cause = error.__context__  # mmcv repeats errors by name, which this one cannot bear
        if isinstance(cause, json.JSONDecodeError):
            raise UserError(f"{what} cannot be built: not a JSON file ({cause})") from error
        reason = " ".join(str(error.args[0]).split()) if error.args else type(error).__name__
        if reason.endswith(":"):  # an assertion without a message
            reason += f" {type(error).__name__}"
        raise UserError(f"{what} cannot be built: {reason}") from error
