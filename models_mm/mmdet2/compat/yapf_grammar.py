"""``import mmcv`` while another process imports it for the first time.

mmcv's ``Config`` imports yapf, which on its first import after an installation writes its grammar
into the user's cache, and renames the file before its content is there (seen in yapf 0.43): a
second process, such as the next rank, finds it empty and fails. A process that is killed at that
moment leaves it so for good.
"""

import functools
import importlib
import pickle
import sys


def apply() -> None:
    """Import yapf, with a grammar made anew where the cached one cannot be read."""
    try:
        importlib.import_module("yapf")
    except (EOFError, pickle.UnpicklingError):
        driver = sys.modules["yapf_third_party._ylib2to3.pgen2.driver"]
        driver.load_grammar = functools.partial(driver.load_grammar, force=True)
        importlib.import_module("yapf")
