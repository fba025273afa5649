"""Download published files completely, check them, and keep them in the cache of ``torch.hub``.

The download of ``torch.hub`` itself takes a broken connection for the end of the file.
"""

import hashlib
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse

import torch
from filelock import FileLock

from models_mm.checkpoints.files import read_checkpoint
from models_mm.errors import CheckpointError

LOGGER = logging.getLogger("models_mm")
ATTEMPTS = 3
PAUSE = 1.0  # seconds before the second attempt, twice as many before the third
TIMEOUT = 60  # seconds without a byte
CHUNK = 1 << 20


def fetch(
    url: str,
    folder: str | os.PathLike | None = None,
    file_name: str | None = None,
    accept: Callable[[str], object] | None = None,
    sha256: str = "",
) -> Path:
    """Download a file, unless it has been downloaded before.

    If several processes need the same file, one of them downloads it, and the others wait. The file
    gets its name only when it is complete.

    Args:
        url: ``http://`` or ``https://``.
        folder: where it is kept (default: ``torch.hub.get_dir()/checkpoints``).
        file_name: its name there (default: the last part of the URL).
        accept: is called with the path of the downloaded file, and raises an error if it is not
            what was expected.
        sha256: the beginning of its digest, if that is known.

    Raises:
        CheckpointError: it cannot be downloaded, or is not what was expected.
    """
    address = urlparse(url)
    folder = Path(folder or os.path.join(torch.hub.get_dir(), "checkpoints"))
    name = file_name or os.path.basename(address.path)
    if address.scheme not in ("http", "https") or name in ("", ".", "..") or "/" in name:
        raise CheckpointError(f"{url} is no address of a file (https://...)")
    file = folder / name
    if file.is_file():
        return file
    part = folder / f".part.{name}"  # keeps the suffix, which decides on the format
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{name}.lock"):
            if not file.is_file():
                LOGGER.info(f"downloading {url} to {file}")
                try:
                    _download(url, part)
                    _check(part, url, accept, sha256)
                    os.replace(part, file)
                finally:
                    part.unlink(missing_ok=True)
    except (OSError, HTTPException) as error:
        raise CheckpointError(
            f"{url} cannot be downloaded ({error}): download it elsewhere, and put it at {file}"
        ) from error
    return file


def _download(url: str, part: Path) -> None:
    """Download a URL to a file; try again if the connection breaks."""
    for attempt in range(ATTEMPTS):
        try:
            with (
                urllib.request.urlopen(url, timeout=TIMEOUT) as answer,
                open(part, "wb") as file,
            ):
                expected = answer.length  # None if the server does not say
                while chunk := answer.read(CHUNK):
                    file.write(chunk)
                if expected is not None and file.tell() != expected:
                    raise ConnectionError(f"{file.tell():,} of {expected:,} bytes arrived")
            return
        except (OSError, HTTPException) as error:
            refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
            local = getattr(error, "filename", None) == str(part)
            if refused or local or attempt == ATTEMPTS - 1:
                raise
            time.sleep(PAUSE * 2**attempt)


def _check(part: Path, url: str, accept: Callable[[str], object] | None, sha256: str) -> None:
    digest = hashlib.sha256(part.read_bytes()).hexdigest() if sha256 else ""
    if not digest.startswith(sha256):
        raise CheckpointError(
            f"{url} is not the file that it was: its SHA-256 is {digest} and not {sha256}..."
        )
    if accept is not None:
        try:
            accept(str(part))
        except CheckpointError as error:
            reason = str(error).replace(str(part), "it")
            raise CheckpointError(f"{url} is not what was expected: {reason}") from error


# Reads URLs of schemes other than http and https; a host framework may set it.
read_other_url: Callable[[str, object], dict] | None = None


def read_url(url: str, map_location="cpu") -> dict:
    """Read a checkpoint by its URL; it is downloaded at the first use.

    Raises:
        CheckpointError: it cannot be downloaded or read.
    """
    if urlparse(url).scheme in ("http", "https") or read_other_url is None:
        return read_checkpoint(fetch(url), map_location)
    return read_other_url(url, map_location)
