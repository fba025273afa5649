"""Errors that are the user's to mend: one clear message, no traceback."""

import difflib
import errno
import os
from collections.abc import Iterable

# The end of a message about a full disk.
AFTER_NO_ROOM = "make room and repeat the command; a training goes on with --auto-resume"


class UserError(Exception):
    """Something outside the program is wrong; the message names it and the way out."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, unsafe, or of another model."""


class Preempted(Exception):
    """The run was asked to end, and has written all that it needs to go on."""


def printable(text: str) -> str:
    """A file's text as a message may show it: no letter that would steer a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def did_you_mean(name: object, known: Iterable[str], before: str = "") -> str:
    """The end of a message about a name that is not among the known ones: the nearest of them."""
    similar = difflib.get_close_matches(str(name), [str(other) for other in known], n=1)
    return f"; did you mean {before}{similar[0]}?" if similar else ""


def no_room(error: BaseException | None) -> str | None:
    """Why there is no room for a file, if that is what an error (or its cause) is about."""
    while error is not None:
        number = getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return os.strerror(number).lower()
        error = error.__cause__ or error.__context__
    return None
