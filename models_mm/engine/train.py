"""Training a detector: mmdet's own loop, behind checked input."""

import argparse
import os
import socket
import time
from pathlib import Path

import torch.distributed as dist
from mmcv import Config
from mmcv.runner import get_dist_info
from mmcv.utils import get_git_hash
from mmdet import __version__ as mmdet_version
from mmdet.apis import init_random_seed, set_random_seed
from mmdet.utils import collect_env, get_root_logger

from models_mm.checkpoints import load_for_finetuning
from models_mm.checkpoints.files import is_url
from models_mm.checkpoints.runs import find_newest, read_meta
from models_mm.engine import ranks, watchdog, work_dirs
from models_mm.engine.cli import Parser, add_common_options, parse
from models_mm.engine.config_changes import check_changes
from models_mm.engine.configs import check_files, find_config, load_config
from models_mm.engine.kinds import SEED, option
from models_mm.engine.loop import start_loaders, train_detector
from models_mm.engine.overrides import DictAction
from models_mm.engine.randomness import seeded
from models_mm.engine.settings import check_settings
from models_mm.engine.setup import build_model, join, prepare
from models_mm.errors import Preempted, UserError


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The options of mmdet 2.28.2's train.py."""
    parser = Parser(prog="train.py", description="Train a detector.")
    parser.add_argument("config", help="config file, e.g. configs/recnext/...py")
    parser.add_argument("--work-dir", help="where logs and checkpoints go (work_dirs/<config>)")
    parser.add_argument("--resume-from", metavar="FILE", help="checkpoint to continue from")
    parser.add_argument(
        "--auto-resume", action="store_true", help="continue from the newest checkpoint, if any"
    )
    parser.add_argument(
        "--allow-config-changes",
        action="store_true",
        help="go on from a checkpoint whose run had another model, data, optimizer or schedule",
    )
    parser.add_argument(
        "--no-validate", action="store_true", help="do not evaluate during training"
    )
    gpus = parser.add_mutually_exclusive_group()
    gpus.add_argument("--gpus", type=int, help="deprecated: one process uses one GPU")
    gpus.add_argument("--gpu-ids", type=int, nargs="+", help="deprecated: use --gpu-id")
    gpus.add_argument(
        "--gpu-id", type=int, default=0, help="GPU of a run without a launcher (default: 0)"
    )
    parser.add_argument(
        "--seed", type=option(SEED, int), help="random seed (default: drawn, and logged)"
    )
    parser.add_argument(
        "--diff-seed", action="store_true", help="add the rank to the seed, per process"
    )
    parser.add_argument(
        "--deterministic", action="store_true", help="use deterministic cuDNN kernels only"
    )
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate to the real batch size (auto_scale_lr of the config)",
    )
    parser.add_argument(
        "--options", nargs="+", action=DictAction, help="deprecated: use --cfg-options"
    )
    add_common_options(parser)
    args = parse(parser, argv)
    if args.options and args.cfg_options:
        parser.error("--options is the old name of --cfg-options: give one of them")
    args.cfg_options = args.cfg_options or args.options
    return args


def main(argv: list[str] | None = None) -> None:
    """Train as the command line says."""
    args = parse_args(argv)
    cfg = load_config(args.config, args.cfg_options)
    splits = ("train",) if args.no_validate else ("train", "val")
    check_settings(cfg, splits, training=True)
    if args.resume_from:
        cfg.resume_from = args.resume_from
    # torchrun has started the job again after a fault (MAX_RESTARTS)
    args.auto_resume |= bool(cfg.get("auto_resume"))
    args.auto_resume |= int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
    if args.auto_scale_lr:
        if not (cfg.get("auto_scale_lr") or {}).get("base_batch_size"):
            raise UserError("--auto-scale-lr needs auto_scale_lr.base_batch_size in the config")
        cfg.auto_scale_lr.enable = True
    check_files(cfg, splits)
    prepare(cfg, args)
    if args.seed is None:
        args.seed = cfg.get("seed")
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
    logger, environment = start_log(cfg, args.config, timestamp)
    asked = cfg.get("resume_from")
    before = resume_point(cfg, args.auto_resume, logger)
    cfg.seed = init_random_seed(before.get("seed") if args.seed is None else args.seed, cfg.device)
    if args.diff_seed:
        cfg.seed += get_dist_info()[0]
    set_random_seed(cfg.seed, deterministic=args.deterministic)
    logger.info(f"Random seed {cfg.seed}, deterministic: {args.deterministic}")
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
        mmdet_version=mmdet_version + get_git_hash()[:7],
        CLASSES=model.CLASSES,
        began_from=place_of(asked) or before.get("began_from"),
        **work_dirs.settle_run(cfg, before, logger),
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
    """A checkpoint as every start of a job calls it, from whatever folder."""
    return checkpoint if not checkpoint or is_url(checkpoint) else os.path.abspath(checkpoint)


def start_log(cfg: Config, config_path: str, timestamp: str):
    """Open the run's log and leave the full config beside it; returns logger and environment."""
    if get_dist_info()[0] == 0:
        leave_config(cfg, config_path)
    if dist.is_initialized():
        dist.barrier()  # rank 0 makes the folder that all write to
    logger = get_root_logger(os.path.join(cfg.work_dir, f"{timestamp}.log"), cfg.log_level)
    environment = "\n".join(f"{key}: {value}" for key, value in collect_env().items())
    logger.info(f"Environment:\n{environment}\n")
    logger.info(f"Config:\n{cfg.pretty_text}")
    return logger, environment


def leave_config(cfg: Config, config_path: str) -> None:
    """Write the full config into the work dir, unless that is where the config itself lies."""
    path = Path(cfg.work_dir) / Path(config_path).name
    if path.is_symlink():
        path.unlink()
    if not (path.exists() and path.samefile(find_config(config_path))):
        cfg.dump(str(path))
