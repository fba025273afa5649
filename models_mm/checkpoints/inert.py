"""What the names in a pickle stand for while it is read: our own functions, or placeholders."""

import pickle
from collections.abc import Callable
from typing import NoReturn

from models_mm.errors import printable

# Memory in bytes of an object that a pickle makes with one or two bytes.
TUPLE, LIST, DICT, SET, OBJECT = 64, 80, 88, 232, 320


class ForeignName(pickle.UnpicklingError):
    """A pickle names a function or class that is not in the table."""

    def __init__(self, name: str):
        super().__init__(f"it names {name}")


class Foreign:
    """Stands for an object, class or function that is not in the table: its name without content.

    A pickle may call it, set its state or fill it; nothing of this has an effect.
    """

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = printable(name[:80])

    def __repr__(self) -> str:
        return f"<{self.name}, not read>"


class Known:
    """A name of the table, while it is on the stack: ``build(unpickler, *arguments)`` calls it."""

    def __init__(self, build: Callable | None = None):
        self.build = build


def refuse(reason: str) -> NoReturn:
    """Stop reading a damaged or malicious file."""
    raise pickle.UnpicklingError(reason)


def octets(data) -> bytes:
    """Bytes; Python 2 wrote them as text."""
    if type(data) is str:
        data = data.encode("latin1")
    if type(data) not in (bytes, bytearray):
        refuse(f"a {type(data).__name__} for bytes")
    return data
