"""The checkpoints of a run in its work dir: their names, the newest whole one, old ones pruned.

``epoch_N.pth`` after epoch N and ``iter_N.pth`` after iteration N are the regular ones;
``interim_N.pth``, after iteration N, are there to go on from and are replaced by later ones.
``latest.pth`` points at the newest. Other files are nobody's business here.
"""

import logging
import os
import re
import shutil
import zipfile
import zlib
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
INTERIM_KEPT = 2  # the newest, and the one before in case that a disk loses it


def find_newest(folder: str, logger: logging.Logger) -> tuple[str, dict] | None:
    """The newest whole checkpoint of a run, and its meta; says which ones are damaged.

    Newest is the one with most iterations, whatever the dates of the files say.
    """
    found = []
    for path in _checkpoints(folder):
        try:
            found.append((read_meta(path)["iter"], path.stat().st_mtime_ns, path))
        except Exception as error:  # a damaged file can raise anything
            _say_damaged(path, error, logger)
    for _, _, path in sorted(found, reverse=True):
        try:
            check_whole(path)
            return str(path), read_meta(path)
        except Exception as error:
            _say_damaged(path, error, logger)
    return None


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


def _checkpoints(folder: str) -> list[Path]:
    paths = Path(folder).glob("*.pth")
    return sorted(p for p in paths if NAME.fullmatch(p.name) and p.is_file())


def point_latest(path: Path) -> None:
    """Make ``latest.pth`` beside a checkpoint stand for it, in one step."""
    latest = path.with_name("latest.pth")
    temporary = temporary_name(latest)
    try:
        temporary.symlink_to(path.name)
    except OSError:  # a file system without links
        with replacing(latest) as file, open_regular(path) as source:
            shutil.copyfileobj(source, file)
        return
    os.replace(temporary, latest)
    sync_folder(path.parent)


def prune(folder: str, keep: int) -> None:
    """Delete old checkpoints: regular ones beyond ``keep`` (-1: none), interim ones beyond two."""
    numbered: dict[bool, list[tuple[int, Path]]] = {True: [], False: []}
    for path in _checkpoints(folder):
        kind, number = NAME.fullmatch(path.name).groups()
        numbered[kind == "interim"].append((int(number), path))
    for interim, kept in ((True, INTERIM_KEPT), (False, keep)):
        if kept > 0:
            for _, path in sorted(numbered[interim])[:-kept]:
                path.unlink(missing_ok=True)


def sweep(folder: str) -> None:
    """Delete what writes that were killed have left."""
    for path in Path(folder).glob(f".*.pth.*{TEMPORARY}"):
        path.unlink(missing_ok=True)
