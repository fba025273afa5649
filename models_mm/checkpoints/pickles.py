"""Plain pickles of arrays, as detectron2 writes them (``.pkl``), read without running any code.

Pickles can call any function by name. Here the names of NumPy's arrays are the only ones known, and
none of these runs what it is given.
"""

import codecs
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np

CORE = np._core if hasattr(np, "_core") else np.core  # the name until NumPy 1


def _encode(text: str, encoding: str) -> bytes:
    """Bytes, as Python 2's protocol writes them."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding}")
    return codecs.encode(text, "latin1")


def _empty() -> bytes:
    """No bytes: the same protocol calls ``bytes`` for them."""
    return b""


NAMES = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _empty,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{
        (f"numpy.{core}.{module}", name): getattr(getattr(CORE, module), name)
        for core in ("core", "_core")
        for module, name in (
            ("multiarray", "_reconstruct"),
            ("multiarray", "scalar"),
            ("numeric", "_frombuffer"),
        )
    },
}


class ArrayUnpickler(pickle.Unpickler):
    """An unpickler of plain data and NumPy arrays.

    Raises:
        UnpicklingError: the pickle names anything else.
    """

    def find_class(self, module: str, name: str):
        if (module, name) not in NAMES:
            # in the words of torch's own unpickler, which the caller understands
            raise pickle.UnpicklingError(f"Unsupported global: GLOBAL {module}.{name}")
        return NAMES[module, name]


def read_pickle(path: Path, trust: bool = False):
    """The content of a pickle; with ``trust``, **running the code it brings along**."""
    with open(path, "rb") as file:
        return (pickle.Unpickler if trust else ArrayUnpickler)(file, encoding="latin1").load()
