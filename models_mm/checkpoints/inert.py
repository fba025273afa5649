"""What a pickle's names stand for while it is read: functions of ours, or placeholders."""

import pickle
from collections.abc import Callable
from typing import NoReturn

from models_mm.errors import printable

# Bytes that Python takes for what a pickle makes with a byte or two.
TUPLE, LIST, DICT, SET, OBJECT = 64, 80, 88, 232, 320


class ForeignName(pickle.UnpicklingError):
    """A pickle names a function or class that is not in the table."""

    def __init__(self, name: str):
        super().__init__(f"it names {name}")


class Foreign:
    """What stands for an object, class or function that is not in the table: its name, no content.

    Whatever a pickle does to it, calls it, gives it a state or fills it, has no effect.
    """

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = printable(name[:80])

    def __repr__(self) -> str:
        return f"<{self.name}, not read>"


class Known:
    """A name of the table, as it lies on the stack: ``build(unpickler, *arguments)`` calls it."""

    def __init__(self, build: Callable | None = None):
        self.build = build


def refuse(reason: str) -> NoReturn:
    """End the reading of a damaged or hostile file."""
    raise pickle.UnpicklingError(reason)


def octets(data) -> bytes:
    """Bytes; text for them is what Python 2 wrote."""
    if type(data) is str:
        data = data.encode("latin1")
    if type(data) not in (bytes, bytearray):
        refuse(f"a {type(data).__name__} for bytes")
    return data
