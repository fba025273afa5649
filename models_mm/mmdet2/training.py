"""Training a detector: mmdet's own loop, behind checked input."""

import argparse
import os
import socket
import subprocess
import time
from pathlib import Path

import torch.distributed as dist
from mmcv import Config
from mmcv.runner import get_dist_info
from mmcv.utils import collect_env
from mmdet import __version__ as mmdet_version
from mmdet.apis import init_random_seed, set_random_seed
from mmdet.utils import get_root_logger

from models_mm.checkpoints import load_for_finetuning
from models_mm.checkpoints.files import is_url
from models_mm.checkpoints.runs import find_newest, read_meta
from models_mm.config_files import find_config
from models_mm.distributed import ranks, watchdog
from models_mm.errors import Preempted, UserError
from models_mm.logs import FILE_ONLY
from models_mm.mmdet2 import console, work_dirs
from models_mm.mmdet2.building import build_model, join, prepare
from models_mm.mmdet2.config_changes import check_changes
from models_mm.mmdet2.configs import check_files, load_config, skip_overwritten
from models_mm.mmdet2.execution import settle_kernels
from models_mm.mmdet2.settings import check_settings
from models_mm.mmdet2.train_detector import start_loaders, train_detector
from models_mm.randomness import seeded


def run(args: argparse.Namespace) -> None:
    """Train as the options of :mod:`models_mm.cli.train` say.

    Raises:
        UserError: something that the user gave is wrong, or something outside the program fails.
        Preempted: the run was asked to end, and can go on.
    """
    cfg = load_config(args.config, args.cfg_options)
    splits = ("train",) if args.no_validate else ("train", "val")
    check_settings(cfg, splits, training=True)
    if args.no_validate and cfg.get("early_stopping") is not None:
        raise UserError("early_stopping needs evaluations: leave --no-validate out")
    if args.resume_from:
        cfg.resume_from = args.resume_from
    # torchrun has started the job again after a fault (MAX_RESTARTS)
    args.auto_resume |= bool(cfg.get("auto_resume"))
    args.auto_resume |= int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
    if args.auto_scale_lr:
        if not (cfg.get("auto_scale_lr") or {}).get("base_batch_size"):
            raise UserError("--auto-scale-lr needs auto_scale_lr.base_batch_size in the config")
        cfg.auto_scale_lr.enable = True
    skip_overwritten(cfg)
    check_files(cfg, splits)
    prepare(cfg, args)
    if args.seed is None:
        args.seed = cfg.get("seed")
    if args.seed is None:
        args.seed = args.default_seed
    with seeded(args.seed or 0):  # on all ranks alike, whatever a data set draws
        loaders, validation = start_loaders(cfg, not args.no_validate)
    distributed = join(cfg, args)

    with work_dirs.held(cfg.work_dir):
        train(cfg, args, loaders, validation, distributed)
    for loader in filter(None, (*loaders, validation)):
        loader.close()
    if distributed:
        dist.destroy_process_group()


def train(cfg: Config, args: argparse.Namespace, loaders, validation, distributed: bool) -> None:
    """Train in the config's work dir, which rank 0 holds; every rank calls it."""
    timestamp = time.strftime("%Y%m%d_%H%M%S")
    logger, environment = start_log(cfg, args.config, timestamp, args.verbose)
    asked = cfg.get("resume_from")
    before = resume_point(cfg, args.auto_resume, logger)
    cfg.seed = init_random_seed(before.get("seed") if args.seed is None else args.seed, cfg.device)
    if args.diff_seed:
        cfg.seed += get_dist_info()[0]
    set_random_seed(cfg.seed, deterministic=args.deterministic)
    logger.info(f"Random seed {cfg.seed}, deterministic: {args.deterministic}", extra=FILE_ONLY)
    if cfg.device == "cuda":
        logger.info(settle_kernels(args.deterministic), extra=FILE_ONLY)
    config = cfg.pretty_text
    if before:
        check_changes(before, config, args.seed, args.allow_config_changes, logger)

    model = build_model(cfg)
    model.CLASSES = loaders[0].dataset.CLASSES
    if not cfg.resume_from:  # a checkpoint to resume from holds everything
        model.init_weights()
        if cfg.get("load_from"):
            load_for_finetuning(model, cfg.load_from, logger)
    cfg.load_from = None

    meta = dict(
        env_info=environment,
        config=config,
        seed=cfg.seed,
        exp_name=os.path.basename(args.config),
        mmdet_version=mmdet_version + git_hash(),
        CLASSES=model.CLASSES,
        began_from=place_of(asked) or before.get("began_from"),
        **work_dirs.settle_run(cfg, before),
    )
    watchdog.start(cfg)
    try:
        train_detector(
            model,
            loaders,
            validation,
            cfg,
            distributed=distributed,
            timestamp=timestamp,
            meta=meta,
            verbose=args.verbose,
        )
    except Preempted:
        watchdog.stop()
        raise
    watchdog.stop()


def resume_point(cfg: Config, auto_resume: bool, logger) -> dict:
    """Settle ``cfg.resume_from``, alike on every rank; returns that checkpoint's meta.

    With ``auto_resume`` beside a checkpoint that is asked for, the newest one of a run that began
    from it counts: the same command goes on after a fault instead of beginning again.

    Raises:
        UserError: not every rank sees the checkpoint.
    """
    # a launcher that starts again after a fault may know so on some machines only
    (auto_resume,) = ranks.any_rank(auto_resume)
    if auto_resume:
        asked = cfg.get("resume_from")
        found = find_newest(cfg.work_dir, logger) if get_dist_info()[0] == 0 else None
        if found and asked and found[1].get("began_from") != place_of(asked):
            found = None
        newest = ranks.from_rank_0(found and found[0])
        cfg.resume_from = newest or asked
        if newest:
            logger.info(f"auto-resume: going on from {newest}")
        elif not asked:
            logger.info(f"auto-resume: {cfg.work_dir} has no whole checkpoint; from the beginning")
    path = cfg.get("resume_from")
    if not path or is_url(path):
        return {}
    if not os.path.exists(path):
        raise UserError(
            f"rank 0 goes on from {path}, which does not exist on {socket.gethostname()}: the work "
            "dir must be a folder that all machines share"
        )
    return read_meta(path)


def place_of(checkpoint: str | None) -> str | None:
    """A checkpoint as every start of a job calls it, from whatever folder and through whatever
    links of folders; a link that is a file, such as ``latest.pth``, may change in between."""
    if not checkpoint or is_url(checkpoint):
        return checkpoint
    folder, name = os.path.split(checkpoint)
    return os.path.join(os.path.realpath(folder), name)


def start_log(cfg: Config, config_path: str, timestamp: str, verbose: bool):
    """Open the run's log and leave the full config beside it; returns logger and environment."""
    if get_dist_info()[0] == 0:
        leave_config(cfg, config_path)
    if dist.is_initialized():
        dist.barrier()  # rank 0 makes the folder that all write to
    logger = get_root_logger(os.path.join(cfg.work_dir, f"{timestamp}.log"), cfg.log_level)
    if not verbose:
        console.quiet()
    versions = {**collect_env(), "MMDetection": f"{mmdet_version}+{git_hash()}"}
    environment = "\n".join(f"{key}: {value}" for key, value in versions.items())
    logger.info(f"Environment:\n{environment}\n")
    logger.info(f"Config:\n{cfg.pretty_text}")
    return logger, environment


def git_hash() -> str:
    """The first digits of the commit that the current folder is at; nothing outside of git."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout[:7]
    except OSError:
        return "unknown"


def leave_config(cfg: Config, config_path: str) -> None:
    """Write the full config into the work dir, unless that is where the config itself lies."""
    path = Path(cfg.work_dir) / Path(config_path).name
    if path.is_symlink():
        path.unlink()
    if not (path.exists() and path.samefile(find_config(config_path))):
        cfg.dump(str(path))
