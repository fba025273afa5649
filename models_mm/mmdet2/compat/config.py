"""``Config.pretty_text`` and ``Config.dump``: with yapf >= 0.40.2, and for all texts.

yapf dropped the argument ``verify`` of ``FormatCode``; mmcv 1.7.0 and 1.7.1 always pass it.

mmcv puts texts between quotes as they are. An apostrophe in a path, a backslash or a line break
gave a file that could not be read, or that had another meaning; so did ``{{``, since mmcv replaces
what stands between double braces when it reads a config.
"""

import functools
import inspect
from types import SimpleNamespace

import mmcv.utils.config
from mmcv import Config

ESCAPES = {"\\": r"\\", "'": r"\'", "\n": r"\n", "\r": r"\r", "{{": r"\x7b\x7b"}


class EscapedText(str):
    """A text that is written as the inside of a Python literal between single quotes."""

    def __format__(self, spec: str) -> str:
        text = str(self)
        for letters, escape in ESCAPES.items():
            text = text.replace(letters, escape)
        return text

    def __repr__(self) -> str:
        return f"'{self}'"


def apply() -> None:
    accept_verify()
    escape_texts()


def accept_verify() -> None:
    original = mmcv.utils.config.FormatCode
    if "verify" in inspect.signature(original).parameters:
        return

    @functools.wraps(original)
    def format_code(*args, verify=None, **kwargs):
        return original(*args, **kwargs)

    # wraps() would show the wrapped signature, and a second apply() would wrap again
    format_code.__signature__ = inspect.signature(format_code, follow_wrapped=False)
    mmcv.utils.config.FormatCode = format_code


def escape_texts() -> None:
    original = Config.pretty_text.fget
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def pretty_text(self) -> str:
        settings = escaped(self._cfg_dict.to_dict())
        return original(SimpleNamespace(_cfg_dict=SimpleNamespace(to_dict=lambda: settings)))

    Config.pretty_text = property(pretty_text)


def escaped(value: object) -> object:
    """A value of a config in which the texts that need it are :class:`EscapedText`."""
    if isinstance(value, dict):
        return {escaped(key): escaped(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(escaped, value))
    if type(value) is str and any(letters in value for letters in ESCAPES):
        return EscapedText(value)
    return value
