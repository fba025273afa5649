"""The checkpoints of a run in its work dir: names, the newest complete one, deletion of old ones.

Regular checkpoints are ``epoch_N.pth``, written after epoch N, and ``iter_N.pth``, written after
iteration N. ``interim_N.pth``, written after iteration N, are for resuming only, and later ones
replace them. ``latest.pth`` points to the newest checkpoint. The evaluation writes ``best_*.pth``.
Other files are ignored.

``meta["run"]`` of a checkpoint identifies the run that wrote it, and ``meta["written"]`` counts the
checkpoints of that run. Files of earlier versions lack both; those in one folder count as one run.
"""

import logging
import os
import re
import secrets
import shutil
import time
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from models_mm.checkpoints.archives import open_archive
from models_mm.checkpoints.files import read_checkpoint, read_content
from models_mm.checkpoints.state import check_meta, check_state
from models_mm.disk import (
    TEMPORARY,
    open_regular,
    replacing,
    sync_folder,
    temporary_name,
)

NAME = re.compile(r"(epoch|iter|interim)_(\d+)\.pth")
BEST = re.compile(r"best_.+\.pth")
INTERIM_KEPT = 2  # the newest, and the one before in case the newest is lost


@dataclass(frozen=True)
class Entry:
    """A checkpoint in a work dir.

    Attributes:
        path: its file.
        run: the run that wrote it; None for files of earlier versions.
        age: increases with every checkpoint of a run.
    """

    path: Path
    run: str | None
    age: tuple[int, int]


def new_run() -> str:
    """A new identity for a run; later runs have greater ones."""
    return f"{time.strftime('%Y%m%d_%H%M%S')}_{secrets.token_hex(4)}"


def read_entry(path: Path) -> Entry:
    """Read the run and the age of a checkpoint from its ``meta``.

    Raises:
        Exception: it is damaged; any type of exception.
    """
    return entry_of(path, read_meta(path))


def entry_of(path: Path, meta: dict) -> Entry:
    """As :func:`read_entry`, for a ``meta`` that has been read.

    Raises:
        ValueError: no training writes such a ``meta``.
    """
    run, age = meta.get("run"), (meta.get("written", 0), meta.get("iter", 0))
    if not isinstance(run, (str, type(None))) or not all(isinstance(n, int) for n in age):
        raise ValueError("its meta is not that of a training")
    return Entry(path, run, age)


def find_newest(folder: str, logger: logging.Logger) -> tuple[str, dict] | None:
    """Find the newest complete checkpoint of the run that wrote last, and its meta.

    The newest checkpoint is the one that the run wrote last; the dates of the files do not matter.
    Damaged files are named in the log.
    """
    found = []
    for path in _checkpoints(folder):
        try:
            found.append(read_entry(path))
        except Exception as error:  # a damaged file can raise any error
            _say_damaged(path, error, logger)
    run = _last_run(folder, found)
    own = [entry for entry in found if entry.run == run]
    for entry in sorted(own, key=lambda entry: entry.age, reverse=True):
        try:
            check_whole(entry.path)
            return str(entry.path), read_meta(entry.path)
        except Exception as error:
            _say_damaged(entry.path, error, logger)
    return None


def _last_run(folder: str, entries: list[Entry]) -> str | None:
    """The run of ``latest.pth``; without a usable one, the run that started last."""
    runs = {entry.run for entry in entries}
    try:
        run = read_entry(Path(folder) / "latest.pth").run
        if run in runs:
            return run
    except Exception:  # missing or damaged
        pass
    return max(runs - {None}, default=None)


def read_meta(path: str | os.PathLike) -> dict:
    """Read the ``meta`` of a checkpoint without its weights; empty if it has none.

    Raises:
        CheckpointError: the file cannot be read, or no training writes such a ``meta``.
    """
    content = read_content(Path(path), weights=False)
    if isinstance(content, dict) and content.get("meta") is None:
        return {}
    check_meta(content, path)
    return content["meta"]


def check_whole(path: str | os.PathLike) -> None:
    """Read a training's checkpoint completely, and compare its checksums.

    Raises:
        Exception: it is damaged, or no training can resume from it; any type of exception.
    """
    if zipfile.is_zipfile(path):
        with open_regular(path) as file:
            bad = open_archive(file)[0].testzip()
        if bad is not None:
            raise zlib.error(f"wrong checksum of {bad}")
    check_state(read_checkpoint(path), path)


def _say_damaged(path: Path, error: Exception, logger: logging.Logger) -> None:
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    size = path.stat().st_size if path.exists() else 0
    logger.warning(f"{path} is damaged and left aside ({size:,} bytes; {reason})")


def _checkpoints(folder: str | os.PathLike) -> list[Path]:
    paths = Path(folder).glob("*.pth")
    return sorted(p for p in paths if NAME.fullmatch(p.name) and p.is_file())


def set_aside(folder: str, run: str | None, age: tuple[int, int]) -> Path | None:
    """Move checkpoints that do not belong to the run from here on to ``previous_<time>/``.

    These are the checkpoints of other runs, damaged ones, and those that this run wrote after the
    checkpoint from which it now resumes. The run must not overwrite, delete or resume from them.

    Args:
        folder: the work dir.
        run: the run that starts or resumes there.
        age: the age of the checkpoint from which it resumes.

    Returns:
        The folder to which the checkpoints were moved, if there were any.
    """
    best = [path for path in Path(folder).glob("best_*.pth") if BEST.fullmatch(path.name)]
    others = [path for path in _checkpoints(folder) + best if not _belongs(path, run, age)]
    if not others:
        return None
    aside = _new_folder(Path(folder))
    latest = Path(folder) / "latest.pth"
    names = {path.name for path in others}
    if latest.is_symlink() and os.readlink(latest) in names:
        others.append(latest)
    elif latest.is_file() and not latest.is_symlink() and not _belongs(latest, run, age):
        others.append(latest)
    for path in others:
        os.rename(path, aside / path.name)
    sync_folder(Path(folder))
    return aside


def _belongs(path: Path, run: str | None, age: tuple[int, int]) -> bool:
    try:
        entry = read_entry(path)
    except Exception:  # damaged
        return False
    return entry.run == run and entry.age <= age


def _new_folder(parent: Path) -> Path:
    name = f"previous_{time.strftime('%Y%m%d_%H%M%S')}"
    for number in range(1000):
        folder = parent / (f"{name}_{number}" if number else name)
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            continue
    raise FileExistsError(f"{parent / name}")


def point_latest(path: Path) -> None:
    """Make ``latest.pth`` point to a checkpoint in the same folder, atomically."""
    latest = path.with_name("latest.pth")
    temporary = temporary_name(latest)
    try:
        try:
            temporary.symlink_to(path.name)
        except OSError:  # the file system has no links
            with replacing(latest) as file, open_regular(path) as source:
                shutil.copyfileobj(source, file)
            return
        os.replace(temporary, latest)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def prune(folder: str, keep: int, run: str | None) -> None:
    """Delete a run's old checkpoints: regular ones beyond ``keep`` (-1: none), interim ones beyond
    two."""
    for interim, kept in ((True, INTERIM_KEPT), (False, keep)):
        if kept > 0:
            paths = [p for p in _checkpoints(folder) if (p.name[:8] == "interim_") == interim]
            for entry in _own(paths, run)[:-kept]:
                entry.path.unlink(missing_ok=True)


def _own(paths: list[Path], run: str | None) -> list[Entry]:
    """The checkpoints of a run, the oldest first."""
    entries = []
    for path in paths:
        try:
            entries.append(read_entry(path))
        except Exception:  # damaged: it belongs to no run
            continue
    return sorted((e for e in entries if e.run == run), key=lambda entry: entry.age)


def sweep(folder: str) -> None:
    """Delete the temporary files of writes that were killed."""
    for path in Path(folder).glob(f".*.pth.*{TEMPORARY}"):
        path.unlink(missing_ok=True)
