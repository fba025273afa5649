"""Kinds of values that settings and options of the command line may have."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from models_mm.errors import UserError


class Kind(NamedTuple):
    """What a value is to be, in words, and whether one is."""

    expected: str
    fits: Callable[[object], bool]

    def check(self, name: str, value: object) -> None:
        """Refuse a value of another kind.

        Raises:
            UserError: names the setting, what is expected, and the value.
        """
        if not self.fits(value):
            raise UserError(f"{name} must be {self.expected}, not {shown(value)}")


def shown(value: object) -> str:
    """A value for a message: whole when it is short."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def is_number(value: object) -> bool:
    """A finite number; ``True`` is none."""
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and -sys.float_info.max <= value <= sys.float_info.max
    )


def whole(low: int, high: int | None = None) -> Kind:
    """A whole number between two, both included."""
    words = (
        f"a whole number of {low} or more" if high is None else f"a whole number, {low} to {high}"
    )

    def fits(value: object) -> bool:
        return (
            isinstance(value, int)
            and not isinstance(value, bool)
            and value >= low
            and (high is None or value <= high)
        )

    return Kind(words, fits)


def number(low: float | None = None, high: float | None = None, above: float | None = None) -> Kind:
    """A finite number between ``low`` and ``high``, or greater than ``above``."""
    words = "a number"
    if high is not None:
        words += f", {low:g} to {high:g}"
    elif low is not None:
        words += f" of {low:g} or more"
    elif above is not None:
        words += f" greater than {above:g}"

    def fits(value: object) -> bool:
        return (
            is_number(value)
            and (low is None or value >= low)
            and (high is None or value <= high)
            and (above is None or value > above)
        )

    return Kind(words, fits)


def choice(*values: object) -> Kind:
    """One of several values."""
    *words, last = map(str, values)
    expected = f"{', '.join(words)} or {last}" if words else last
    return Kind(expected, lambda value: isinstance(value, (str, int)) and value in values)


def many(kind: Kind, least: int = 1) -> Kind:
    """A list or tuple."""
    return Kind(
        f"a list, each item {kind.expected}",
        lambda value: (
            isinstance(value, (list, tuple)) and len(value) >= least and all(map(kind.fits, value))
        ),
    )


def either(*kinds: Kind) -> Kind:
    """Any of several kinds."""
    return Kind(
        " or ".join(kind.expected for kind in kinds),
        lambda value: any(kind.fits(value) for kind in kinds),
    )


def is_text(value: object) -> bool:
    """A text that is not empty and can be written: JSON can also have halves of a letter."""
    return isinstance(value, str) and value.encode(errors="ignore").decode() == value != ""


FLAG = Kind("True or False", lambda value: isinstance(value, bool))
TEXT = Kind("a text", is_text)
NONE = Kind("None", lambda value: value is None)
SETTINGS = Kind("a dict of settings", lambda value: isinstance(value, dict))


def option(kind: Kind, parse: Callable[[str], object] = float) -> Callable[[str], object]:
    """A kind as the ``type`` of an option of the command line."""

    def parsed(text: str) -> object:
        try:
            value = parse(text)
        except ValueError:
            value = text
        if not kind.fits(value):
            raise argparse.ArgumentTypeError(f"must be {kind.expected}, not {text!r}")
        return value

    return parsed


def whole_option(low: int, high: int | None = None) -> Callable[[str], object]:
    """A whole number as the ``type`` of an option."""
    return option(whole(low, high), int)


def picture_file(text: str, formats: tuple[str, ...] = (".png", ".jpg", ".jpeg")) -> str:
    """A picture to be written, as the ``type`` of an option: of a known format."""
    if Path(text).suffix.lower() not in formats:
        raise argparse.ArgumentTypeError(
            f"must be a file ending in {', '.join(formats)}, not {text!r}"
        )
    return output_file(text)


def plot_file(text: str) -> str:
    """A picture that matplotlib writes."""
    return picture_file(text, (".png", ".jpg", ".jpeg", ".pdf", ".svg"))


def output_file(text: str) -> str:
    """A file to be written, as the ``type`` of an option: in no folder that cannot be made."""
    if not text or Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder: give a file")
    output_folder(str(Path(text).parent))
    return text


def output_folder(text: str) -> str:
    """A folder to be written to, as the ``type`` of an option; it need not exist."""
    place = Path(text)
    while not place.exists():
        place = place.parent
    if not text or not place.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} cannot be a folder: {place} is a file")
    if not os.access(place, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: no permission in {place}")
    return text


SEED = whole(0, 2**32 - 1)
SCORE = option(number(0, 1))
