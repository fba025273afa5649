"""Allow one training at a time in a work dir, on any machine.

Rank 0 of the training holds a file lock on ``WORK_DIR/.lock``, which the kernel releases however
the process ends. Some shared file systems do not share locks between machines. So the file also
names the holder and has a counter: while the counter increases, the training is alive.
"""

import errno
import fcntl
import json
import os
import socket
import stat
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from models_mm.errors import UserError

NAME = ".lock"
BEAT = 2.0  # seconds between two increments of the counter
WATCH = 7.0  # seconds in which the counter of a live training has increased
WAIT = 15.0  # seconds in which a job that was killed or asked to end has ended
SIZE = 512  # bytes written: a fixed number, so that no older text remains
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def held(folder: str | os.PathLike):
    """Lock a work dir while the block runs.

    Raises:
        UserError: another training runs there.
        OSError: the folder cannot be written.
    """
    path = Path(folder) / NAME
    file = _open(path)
    try:
        _acquire(file, path)
        about, ended = _about(), threading.Event()
        _write(file, about, 0)
        beating = threading.Thread(target=_beat, args=(file, about, ended), daemon=True)
        beating.start()
        try:
            yield
        finally:
            ended.set()
            beating.join()  # before the descriptor can be reused for another file
            with suppress(OSError):
                os.ftruncate(file, 0)
    finally:
        os.close(file)


def _open(path: Path) -> int:
    # neither through a symbolic link nor into a file with a second hard link
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        file = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise UserError(f"{path} is a link, which a training does not make: remove it") from error
    about = os.fstat(file)
    if not stat.S_ISREG(about.st_mode) or about.st_nlink != 1:
        os.close(file)
        raise UserError(f"{path} is not a file that a training has made: remove it")
    return file


def _acquire(file: int, path: Path) -> None:
    before = _read(path)
    elsewhere = _parsed(before).get("machine") != _machine()
    if before and elsewhere and _moves(path, before):
        raise UserError(_in_use(path))
    locked = _lock(file)
    if locked is False:
        print(f"a training runs in {path.parent}: seeing whether it is ending", file=sys.stderr)
        limit = time.monotonic() + WAIT
        while (locked := _lock(file)) is False:
            if time.monotonic() > limit:
                raise UserError(_in_use(path))
            time.sleep(0.2)
    if locked is None and before and not elsewhere and _moves(path, before):
        raise UserError(_in_use(path))


def _lock(file: int) -> bool | None:
    """Try to lock; returns whether we have the lock now, or None if the file system has no locks.

    It is a POSIX lock, because forked processes such as data workers do not inherit those.
    """
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        if error.errno in NO_LOCKS:
            return None
        raise


def _moves(path: Path, before: bytes) -> bool:
    limit = time.monotonic() + WATCH
    while time.monotonic() < limit:
        time.sleep(0.2)
        now = _read(path)
        if now != before:
            return bool(now)  # the file is emptied when a training ends
    return False


def _beat(file: int, about: dict, ended: threading.Event) -> None:
    count = 0
    while not ended.wait(BEAT):
        count += 1
        with suppress(OSError):  # the training itself will notice and report the error
            _write(file, about, count)


def _about() -> dict:
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "machine": _machine(),
    }


def _machine() -> str:
    """An identity of this machine since its boot, because host names may be equal."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def _write(file: int, about: dict, count: int) -> None:
    text = json.dumps({**about, "count": count}).encode()
    os.pwrite(file, text.ljust(SIZE)[:SIZE], 0)
    os.fsync(file)  # other machines see it only after it has been synced


def _read(path: Path) -> bytes:
    """Read the file. Call this only before locking, because closing the file releases the lock."""
    # opened each time, because NFS asks its server only then
    with open(path, "rb") as file:
        return file.read(SIZE)


def _parsed(text: bytes) -> dict:
    try:
        about = json.loads(text)
    except ValueError:
        return {}
    return about if isinstance(about, dict) else {}


def _in_use(path: Path) -> str:
    about = _parsed(_read(path))
    pid, host, since = (str(about.get(key, "?"))[:80] for key in ("process", "host", "since"))
    return (
        f"a training runs in {path.parent}: process {pid} on {host}, since {since}. Wait for its "
        "end or stop it, or train in another --work-dir"
    )
