"""``Config.pretty_text`` and ``Config.dump`` with yapf >= 0.40.2.

yapf dropped the argument ``verify`` of ``FormatCode``; mmcv 1.7.0 and 1.7.1 always pass it.
"""

import functools
import inspect

import mmcv.utils.config


def apply() -> None:
    original = mmcv.utils.config.FormatCode
    if "verify" in inspect.signature(original).parameters:
        return

    @functools.wraps(original)
    def format_code(*args, verify=None, **kwargs):
        return original(*args, **kwargs)

    # wraps() would show the wrapped signature, and a second apply() would wrap again
    format_code.__signature__ = inspect.signature(format_code, follow_wrapped=False)
    mmcv.utils.config.FormatCode = format_code
