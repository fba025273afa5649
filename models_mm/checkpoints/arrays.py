"""NumPy arrays and numbers in pickles, read without NumPy's own code, which accepts any state."""

import re
from typing import TYPE_CHECKING

import numpy as np

from models_mm.checkpoints.inert import OBJECT, TUPLE, Foreign, ForeignName, Known, octets, refuse

if TYPE_CHECKING:
    from models_mm.checkpoints.pickles import PlainUnpickler as Reader

# Of the other types, such as text and times, only the size is known.
OPAQUE = re.compile(r"([USVMmfc])(\d{1,9})")
DTYPES = {*("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")}
NDARRAY = Known()  # only its name is used; it is never called


class DType:
    """The type of an array of plain numbers; NumPy's own class would accept any state.

    Args:
        code: NumPy's name of the type.
        inert: accept other types too, as ``opaque`` bytes of their size; never Python objects.
    """

    def __init__(self, code: str, inert: bool = False):
        self.order, self.code = (code[0], code[1:]) if code[:1] in "<>=|" else ("=", code)
        if inert and self.code in ("O", "O4", "O8"):
            raise ForeignName("an array of Python objects")
        other = OPAQUE.fullmatch(self.code) if inert and self.code not in DTYPES else None
        if self.code not in DTYPES and not other:
            refuse(f"an array of the type {code!r:.20}")
        self.opaque = other is not None
        if other:
            self.order, self.code = "|", f"V{int(other[2]) * (4 if other[1] == 'U' else 1)}"

    def set_state(self, state) -> None:
        if self.opaque:
            return
        if type(state) is not tuple or len(state) < 5 or state[2:5] != (None, None, None):
            refuse("an array of a type with parts")
        if type(state[1]) is not str or state[1] not in tuple("<>=|"):
            refuse("an array of a type without byte order")
        self.order = state[1]

    def numpy(self) -> np.dtype:
        return np.dtype(self.order + self.code)


def _dtype(reader: "Reader", code, align=False, copy=False) -> DType | Foreign:
    reader.charge(OBJECT)
    if type(code) is Foreign:  # a record type
        return code
    return DType(octets(code).decode("latin1"), reader.inert)


def numbers(reader: "Reader", shape, dtype, data) -> tuple[tuple, np.dtype, bytes]:
    """Make an array from its shape, type and bytes, after a check that they agree."""
    if type(dtype) is not DType or type(shape) is not tuple or len(shape) > 32:
        refuse("an array without type or shape")
    values, kind = 1, dtype.numpy()
    for length in shape:
        if type(length) is not int or not 0 <= length < 1 << 40:
            refuse("an array whose shape cannot be")
        values *= length
    data = octets(data)
    if not kind.itemsize:
        refuse("an array of values without bytes")
    if values * kind.itemsize != len(data):
        refuse(f"an array of {values} values in {len(data)} bytes")
    reader.charge(len(data))
    return shape, kind, data


def _reconstruct(reader: "Reader", kind, shape, code) -> np.ndarray | Foreign:
    """Make an empty array, which :func:`fill_array` then fills."""
    if type(kind) is Foreign:  # a subclass
        return kind
    if kind is not NDARRAY or shape != (0,):
        refuse("an array that is not empty at first")
    reader.charge(OBJECT)
    return np.empty(0, np.int8)


def fill_array(reader: "Reader", array: np.ndarray, state) -> None:
    """Give an empty array its shape and values."""
    if type(state) is not tuple or len(state) != 5 or array.shape != (0,):
        refuse("an array with another state than NumPy's")
    version, shape, dtype, fortran, data = state
    shape, kind, data = numbers(reader, shape, dtype, data)
    array.__setstate__((1, shape, kind, fortran is True or fortran == 1, bytes(data)))


def _frombuffer(reader: "Reader", data, dtype, shape, order) -> np.ndarray:
    """Make an array as pickle protocol 5 writes it."""
    shape, kind, data = numbers(reader, shape, dtype, data)
    if order not in ("C", "F"):
        refuse("an array whose values have no order")
    return np.frombuffer(bytearray(data), kind).reshape(shape, order=order)


def _scalar(reader: "Reader", dtype, data) -> np.generic | Foreign:
    if type(dtype) is DType and dtype.opaque:
        reader.charge(OBJECT)
        return Foreign("numpy.generic")
    _, kind, data = numbers(reader, (), dtype, data)
    reader.charge(TUPLE)
    return np.frombuffer(data, kind)[0]


ARRAYS = {
    ("numpy", "ndarray"): NDARRAY,
    ("numpy", "dtype"): Known(_dtype),
    **{
        (f"numpy.{core}.{module}", name): Known(build)
        for core in ("core", "_core")  # NumPy 1 and later
        for module, name, build in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _frombuffer),
        )
    },
}
