"""The work dir of a training: create it, lock it, move the checkpoints of other runs away, and find
what a training has left in it.
"""

import logging
import os
from contextlib import contextmanager
from pathlib import Path

from mmcv import Config
from mmcv.runner import BaseRunner, get_dist_info

from models_mm.checkpoints import runs
from models_mm.distributed import ranks
from models_mm.errors import UserError, no_room
from models_mm.mmdet2 import work_dir_lock


def make(folder: str) -> None:
    """Create a work dir if it does not exist.

    Raises:
        UserError: it cannot be created, or is not a folder.
    """
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the work dir {folder} cannot be made ({_reason(error)}): give another --work-dir"
        ) from error


@contextmanager
def held(folder: str):
    """Lock a work dir for a training, and report errors of its files in one line.

    Every rank calls it; rank 0 has the lock.

    Raises:
        UserError: another training runs there, or a file or the folder cannot be written.
    """
    with explained(folder):
        if get_dist_info()[0] != 0:
            yield
            return
        with work_dir_lock.held(folder):
            for path in sorted(Path(folder).glob("*.pth")):
                if path.is_dir() and (path.name == "latest.pth" or runs.NAME.fullmatch(path.name)):
                    raise UserError(
                        f"{path} is a folder, and a checkpoint would have this name: rename it or "
                        "give another --work-dir"
                    )
            yield


@contextmanager
def explained(folder: str):
    """Name the file and the reason if something in a work dir cannot be written.

    Raises:
        UserError: replaces an OSError about the folder or its files.
    """
    try:
        yield
    except OSError as error:
        path = error.filename2 or error.filename
        if no_room(error) or not isinstance(path, (str, os.PathLike)) or not _inside(path, folder):
            raise
        if not os.path.isdir(folder):
            raise UserError(
                f"the work dir {folder} does not exist any more: it was removed or renamed while "
                "the training ran"
            ) from error
        raise UserError(
            f"{path} cannot be written ({_reason(error)}); older files are unchanged"
        ) from error


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _inside(path: str | os.PathLike, folder: str) -> bool:
    path, folder = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    return path == folder or folder in path.parents


def settle_run(cfg: Config, before: dict) -> dict:
    """Decide to which run the checkpoints of a training belong.

    Args:
        cfg: the config, with the final ``resume_from``.
        before: the ``meta`` of that checkpoint; empty if it is unknown.

    Returns:
        ``run`` and ``written`` for the ``meta`` of this training's checkpoints, equal on all ranks.
    """
    source, run, written = cfg.get("resume_from"), None, 0
    here = source and Path(source).absolute().parent == Path(cfg.work_dir).absolute()
    if source and before:
        entry = runs.entry_of(Path(source), before)
        run, written = entry.run, entry.age[0]
    if run is None and not here:
        run = ranks.from_rank_0(runs.new_run())
    return {**({"run": run} if run else {}), "written": written}


def clear(runner: BaseRunner) -> None:
    """Move the checkpoints of other runs, or later than where this one begins, out of its way."""
    age = runner.meta.get("written", 0), runner.iter
    aside = runs.set_aside(runner.work_dir, runner.meta.get("run"), age)
    if aside:
        runner.logger.info(
            f"checkpoints in {runner.work_dir} of another run, or later than what this training "
            f"goes on from, are in {aside} now; --resume-from goes on from one of them"
        )


def find_trained(model: str | Path, config: str | None = None) -> tuple[Path, Path]:
    """The config and the checkpoint of a training.

    Args:
        model: a work dir, whose best checkpoint counts, or else its last one; or a checkpoint or
            config in it, which counts then.
        config: counts instead of the one in the work dir.

    Raises:
        UserError: one of them is missing, or it is not clear which config is meant.
    """
    path = Path(model).expanduser()
    if not path.exists():
        raise UserError(f"{path} does not exist: give the work dir of a training, or a file in it")
    folder = path if path.is_dir() else path.parent
    is_config = path.is_file() and path.suffix == ".py"
    checkpoint = find_checkpoint(folder) if path.is_dir() or is_config else path
    if config is None and is_config:
        config = path
    return Path(config or find_config_of(folder, checkpoint)), checkpoint


def find_checkpoint(folder: Path) -> Path:
    """The best checkpoint in a work dir, or else the last one.

    Raises:
        UserError: there is none.
    """
    best = [path for path in folder.glob("best_*.pth") if runs.BEST.fullmatch(path.name)]
    for path in sorted(best, key=lambda path: path.stat().st_mtime, reverse=True):
        return path
    newest = runs.find_newest(str(folder), logging.getLogger(__name__))
    if newest is None:
        raise UserError(f"{folder} has no checkpoint of a training (best_*.pth, epoch_*.pth)")
    return Path(newest[0])


def find_config_of(folder: Path, checkpoint: Path) -> Path:
    """The config in the work dir of a checkpoint: ``config.py``, the one that the checkpoint names,
    or the only one.

    Raises:
        UserError: there is none, or several.
    """
    configs = sorted(path for path in folder.glob("*.py") if path.is_file())
    try:
        named = str(runs.read_meta(checkpoint).get("exp_name"))
    except Exception:  # damaged, which is said when it is loaded
        named = ""
    for path in configs:
        if path.name in ("config.py", named) or len(configs) == 1:
            return path
    found = f"has several configs ({', '.join(p.name for p in configs)})" if configs else "has none"
    raise UserError(f"which config belongs to {checkpoint}? {folder} {found}: give --config")
