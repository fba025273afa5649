"""The checkpoints of a run in its work dir: their names, the newest whole one, old ones pruned.

``epoch_N.pth`` after epoch N and ``iter_N.pth`` after iteration N are the regular ones;
``interim_N.pth``, after iteration N, are there to go on from and are replaced by later ones.
``latest.pth`` points at the newest, ``best_*.pth`` are the evaluation's. Other files are nobody's
business here.

``meta["run"]`` of a checkpoint names the run that wrote it, ``meta["written"]`` counts that run's
checkpoints. Files without them are older than this; those in one folder are taken for one run.
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
from models_mm.checkpoints.disk import (
    TEMPORARY,
    open_regular,
    replacing,
    sync_folder,
    temporary_name,
)
from models_mm.checkpoints.files import read_checkpoint, read_content
from models_mm.checkpoints.state import check_meta, check_state

NAME = re.compile(r"(epoch|iter|interim)_(\d+)\.pth")
BEST = re.compile(r"best_.+\.pth")
INTERIM_KEPT = 2  # the newest, and the one before in case that a disk loses it


@dataclass(frozen=True)
class Entry:
    """A checkpoint in a work dir.

    Attributes:
        path: its file.
        run: the run that wrote it; None for files of old.
        age: grows with every checkpoint of a run.
    """

    path: Path
    run: str | None
    age: tuple[int, int]


def new_run() -> str:
    """An identity for a run that begins; those of later runs are greater."""
    return f"{time.strftime('%Y%m%d_%H%M%S')}_{secrets.token_hex(4)}"


def read_entry(path: Path) -> Entry:
    """What a checkpoint says of itself.

    Raises:
        Exception: it is damaged; of whatever kind the damage makes of it.
    """
    return entry_of(path, read_meta(path))


def entry_of(path: Path, meta: dict) -> Entry:
    """As :func:`read_entry`, from a ``meta`` that has been read.

    Raises:
        ValueError: a ``meta`` that no training writes.
    """
    run, age = meta.get("run"), (meta.get("written", 0), meta.get("iter", 0))
    if not isinstance(run, (str, type(None))) or not all(isinstance(n, int) for n in age):
        raise ValueError("its meta is not that of a training")
    return Entry(path, run, age)


def find_newest(folder: str, logger: logging.Logger) -> tuple[str, dict] | None:
    """The newest whole checkpoint of the run that wrote last, and its meta.

    Newest is the one that the run has written last, whatever the dates of the files say. Says which
    files are damaged.
    """
    found = []
    for path in _checkpoints(folder):
        try:
            found.append(read_entry(path))
        except Exception as error:  # a damaged file can raise anything
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
    """The run of ``latest.pth``; if that is no help, the one that began last."""
    runs = {entry.run for entry in entries}
    try:
        run = read_entry(Path(folder) / "latest.pth").run
        if run in runs:
            return run
    except Exception:  # missing or damaged
        pass
    return max(runs - {None}, default=None)


def read_meta(path: str | os.PathLike) -> dict:
    """A checkpoint's ``meta``, without reading its weights; empty if it has none.

    Raises:
        CheckpointError: it cannot be read, or the meta is not what a training writes.
    """
    content = read_content(Path(path), weights=False)
    if isinstance(content, dict) and content.get("meta") is None:
        return {}
    check_meta(content, path)
    return content["meta"]


def check_whole(path: str | os.PathLike) -> None:
    """Read all of a training's checkpoint, against its checksums.

    Raises:
        Exception: it is damaged, or no training can go on from it; of whatever kind.
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
    """Move what a run must neither overwrite, prune nor go on from into ``previous_<time>/``.

    That is what other runs have written, what is damaged, and what this run has written after the
    checkpoint that it now goes on from.

    Args:
        folder: the work dir.
        run: the run that begins or goes on there.
        age: of the checkpoint that it goes on from.

    Returns:
        The folder that the checkpoints are in now, if there were any.
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
    """Make ``latest.pth`` beside a checkpoint stand for it, in one step."""
    latest = path.with_name("latest.pth")
    temporary = temporary_name(latest)
    try:
        try:
            temporary.symlink_to(path.name)
        except OSError:  # a file system without links
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
    """Those of a run, the oldest first."""
    entries = []
    for path in paths:
        try:
            entries.append(read_entry(path))
        except Exception:  # damaged: nobody's
            continue
    return sorted((e for e in entries if e.run == run), key=lambda entry: entry.age)


def sweep(folder: str) -> None:
    """Delete what writes that were killed have left."""
    for path in Path(folder).glob(f".*.pth.*{TEMPORARY}"):
        path.unlink(missing_ok=True)
