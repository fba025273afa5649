"""Read pickles of plain data and NumPy arrays without running code from them, within bounds.

A pickle is a program: it can call any function by name, build objects with any state, and allocate
far more memory than its own size. Here, a pickle can only use the names in a table. Each of them
stands for a function of this package, which checks its arguments. The memory of everything that a
pickle builds is limited by the size of the pickle.
"""

import argparse
import io
import pickle
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import torch

from models_mm.checkpoints.arrays import ARRAYS, DType, fill_array
from models_mm.checkpoints.inert import (
    DICT,
    LIST,
    OBJECT,
    SET,
    TUPLE,
    Foreign,
    ForeignName,
    Known,
    octets,
    refuse,
)
from models_mm.disk import open_regular

# Memory that a pickle may use per byte of its size, and the bytes that every pickle may use. An
# empty dictionary needs 64 bytes; its code, with the entry in the memo, two.
MULTIPLE = 64
GRANTED = 32 << 20
DEPTH = 64  # depth of nested containers, which recursive functions can follow
SCALARS = {str, bytes, int, float, bool, complex, type(None)}
LARGE_KEY = 1 << 60  # larger integers may have equal hashes, which make dictionaries extremely slow
# Keys with a fast hash; the state of an optimizer has parameters as keys.
BY_IDENTITY = (Foreign, Known, torch.Tensor, torch.device, torch.dtype)


def check_keys(keys, names: bool = False) -> None:
    """Refuse keys whose hash would take too long, or overflow the stack.

    Args:
        keys: the keys of a dictionary, or the items of a set.
        names: refuse all keys but strings.
    """
    for key in keys:
        kind = type(key)
        if kind is str or (isinstance(key, BY_IDENTITY) and not names):
            continue
        many = kind in (tuple, torch.Size)
        if names or not (kind in SCALARS or many or isinstance(key, np.generic)):
            refuse(f"a {kind.__name__} is a key")
        if many:
            if any(isinstance(item, tuple) for item in key):
                refuse("tuples of tuples are a key")
            check_keys(key)
        elif kind is int and not -LARGE_KEY < key < LARGE_KEY:
            refuse("an integer of more than 60 bits is a key")


class Memo(list):
    """The memo of a pickle, as a list, because its numbers are consecutive.

    Args:
        limit: the largest possible number.
    """

    def __init__(self, limit: int):
        super().__init__()
        self.limit = limit

    def __setitem__(self, index: int, value) -> None:
        if index < len(self):
            super().__setitem__(index, value)
        elif index > self.limit:
            refuse("it numbers more objects than it can have")
        else:
            self.extend([None] * (index - len(self)))
            self.append(value)


class PlainUnpickler(pickle._Unpickler):
    """An unpickler of plain data and NumPy arrays.

    Its base is the unpickler of the standard library that is written in Python. The one in C
    allocates memory for any stated index of the memo and any stated length of a string, before it
    checks whether the file has so much.

    Args:
        file: where the pickle is read from.
        size: the size of the pickle in bytes, which limits the memory of what it builds.

    Raises:
        ForeignName: the pickle uses a name that is not in ``names``, unless it is read with
            placeholders (``inert``).
        Exception: it is damaged or needs too much memory; any type of exception.
    """

    names: dict[tuple[str, str], object] = {}
    inert = False  # whether names that are not in the table become placeholders

    def __init__(self, file, size: int):
        super().__init__(file, encoding="latin1")
        self.allowance = self.largest = GRANTED + MULTIPLE * size
        self.memo = Memo(size)

    def load(self):
        value = super().load()
        check_extent(value, self.largest)
        return value

    def find_class(self, module: str, name: str):
        try:
            return self.names[module, name]
        except KeyError:
            if not self.inert or module == "torch._utils":  # a tensor type
                raise ForeignName(f"{module}.{name}") from None
            self.charge(OBJECT)
            return Foreign(f"{module}.{name}")

    def charge(self, cost: int) -> None:
        """Count memory, in bytes, that the pickle is about to use."""
        self.allowance -= cost
        if self.allowance < 0:
            refuse("it asks for far more memory than a file of its size should")

    def into(self, *kinds: type):
        """Return the container on the stack, which must have one of these types."""
        if type(self.stack[-1]) is Foreign:
            return kinds[0]()
        if type(self.stack[-1]) not in kinds:
            refuse(f"it fills a {type(self.stack[-1]).__name__}")
        return self.stack[-1]

    def make(self, value, cost: int) -> None:
        """Put a new object onto the stack."""
        self.charge(cost)
        self.append(value)

    def on_tuple(self, length: int | None = None) -> None:
        items = self.pop_mark() if length is None else self.stack[-length:]
        if length is not None:
            del self.stack[-length:]
            if len(items) < length:
                refuse("its stack is empty")
        self.make(tuple(items), TUPLE)

    def on_list(self) -> None:
        self.make(self.pop_mark(), LIST)

    def on_dict(self) -> None:
        items = self.pop_mark()
        self.make({}, DICT)
        self.set_items(items)

    def on_frozenset(self) -> None:
        items = self.pop_mark()
        check_keys(items)
        self.make(frozenset(items), SET)

    def on_append(self) -> None:
        item = self.stack.pop()
        self.into(list).append(item)

    def on_appends(self) -> None:
        items = self.pop_mark()
        self.into(list).extend(items)

    def on_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def on_setitems(self) -> None:
        self.set_items(self.pop_mark())

    def set_items(self, items: list) -> None:
        check_keys(items[::2])
        self.into(dict, OrderedDict, Counter).update(zip(items[::2], items[1::2], strict=True))

    def on_additems(self) -> None:
        items = self.pop_mark()
        check_keys(items)
        self.into(set).update(items)

    def on_call(self) -> None:
        """Handle the codes for a call and for a new object."""
        arguments, known = self.stack.pop(), self.stack.pop()
        if type(known) is Foreign:
            return self.make(Foreign(known.name), OBJECT)
        if type(known) is not Known or known.build is None or type(arguments) is not tuple:
            refuse(f"it calls a {type(known).__name__}")
        self.append(known.build(self, *arguments))
        return None

    def on_call_with_keywords(self) -> None:
        self.stack.pop()
        self.stack.pop()
        if type(self.stack[-1]) is not Foreign:
            refuse("it calls with keywords")
        self.append(Foreign(self.stack.pop().name))

    def on_build(self) -> None:
        """Set the state of the object on the stack."""
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is np.ndarray:
            fill_array(self, target, state)
        elif type(target) is DType:
            target.set_state(state)
        elif type(target) is argparse.Namespace and type(state) is dict:
            self.charge(DICT * (1 + len(state)))
            check_keys(state, names=True)
            vars(target).update(state)
        # the state of an OrderedDict has the versions of torch's modules
        elif type(target) not in (OrderedDict, Foreign):
            refuse(f"it sets the state of a {type(target).__name__}")

    def on_bytearray(self) -> None:
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    def on_other(self) -> None:
        refuse("it has a code that no plain data needs")

    dispatch = {
        **pickle._Unpickler.dispatch,
        pickle.TUPLE[0]: on_tuple,
        pickle.TUPLE1[0]: lambda self: self.on_tuple(1),
        pickle.TUPLE2[0]: lambda self: self.on_tuple(2),
        pickle.TUPLE3[0]: lambda self: self.on_tuple(3),
        pickle.EMPTY_LIST[0]: lambda self: self.make([], LIST),
        pickle.EMPTY_DICT[0]: lambda self: self.make({}, DICT),
        pickle.EMPTY_SET[0]: lambda self: self.make(set(), SET),
        pickle.LIST[0]: on_list,
        pickle.DICT[0]: on_dict,
        pickle.FROZENSET[0]: on_frozenset,
        pickle.APPEND[0]: on_append,
        pickle.APPENDS[0]: on_appends,
        pickle.SETITEM[0]: on_setitem,
        pickle.SETITEMS[0]: on_setitems,
        pickle.ADDITEMS[0]: on_additems,
        pickle.REDUCE[0]: on_call,
        pickle.NEWOBJ[0]: on_call,
        pickle.NEWOBJ_EX[0]: on_call_with_keywords,
        pickle.BUILD[0]: on_build,
        pickle.BYTEARRAY8[0]: on_bytearray,
        **dict.fromkeys(
            pickle.OBJ + pickle.INST + pickle.EXT1 + pickle.EXT2 + pickle.EXT4,
            on_other,
        ),
        **dict.fromkeys(pickle.NEXT_BUFFER + pickle.READONLY_BUFFER, on_other),
    }


def check_extent(value, limit: int) -> None:
    """Refuse a value that contains itself, or that would be far larger if references were copies.

    Code that later walks through the value, recursively or not, will come to an end.
    """
    done: dict[int, tuple[int, int]] = {}  # object -> bytes, levels (content included)

    def extent(item, level: int) -> tuple[int, int]:
        children = contained(item)
        if children is None:
            return 16 + leaf_size(item), 0
        if id(item) in done:
            return done[id(item)]
        if level > DEPTH:
            refuse(f"its containers hold themselves, or one another {DEPTH} deep")
        total, levels = 64, 0
        for child in children:
            below, deep = extent(child, level + 1)
            total, levels = total + below, max(levels, deep + 1)
        if levels > DEPTH:
            refuse(f"its containers hold one another {DEPTH} deep")
        if total > limit:
            refuse("its parts refer to one another over and over")
        done[id(item)] = total, levels
        return total, levels

    extent(value, 0)


def contained(item):
    """The content of a container, including keys; ``None`` for other objects."""
    if isinstance(item, dict):
        return [*item.keys(), *item.values()]
    if isinstance(item, (list, tuple, set, frozenset)):
        return item
    return list(vars(item).values()) if isinstance(item, argparse.Namespace) else None


def leaf_size(item) -> int:
    if isinstance(item, (str, bytes, bytearray)):
        return len(item)
    if isinstance(item, torch.Tensor):
        return item.numel() * item.element_size()
    return item.nbytes if isinstance(item, np.ndarray) else 0


# --- the table of names: plain containers


def _ordered_dict(reader: PlainUnpickler, items=()) -> OrderedDict:
    """Make an ordered dictionary; Python 2 passes its items."""
    reader.charge(OBJECT + OBJECT * len(items))
    pairs = list(items.items()) if isinstance(items, dict) else items
    check_keys(key for key, _ in pairs)
    return OrderedDict(pairs)


def _counter(reader: PlainUnpickler, items=()) -> Counter:
    return Counter(dict(_ordered_dict(reader, items)))


def _default_dict(reader: PlainUnpickler, factory=None, items=()) -> dict:
    """Make a dictionary; the factory for missing keys is dropped."""
    return dict(_ordered_dict(reader, items))


def _set(reader: PlainUnpickler, items=()) -> set:
    reader.charge(SET + TUPLE * len(items))
    check_keys(items)
    return set(items)


def _namespace(reader: PlainUnpickler) -> argparse.Namespace:
    reader.charge(OBJECT)
    return argparse.Namespace()


def _encode(reader: PlainUnpickler, text: str, encoding: str) -> bytes:
    """Make bytes as protocols 0 to 2 write them."""
    if type(text) is not str or encoding != "latin1":
        refuse(f"bytes in the encoding {encoding}")
    reader.charge(len(text))
    return text.encode("latin1")


def _bytes(reader: PlainUnpickler) -> bytes:
    """Make empty bytes: the same protocols call ``bytes`` for them."""
    return b""


def _bytearray(reader: PlainUnpickler, data: bytes = b"") -> bytearray:
    reader.charge(64 + len(data))
    return bytearray(octets(data))


def _complex(reader: PlainUnpickler, real: float, imaginary: float) -> complex:
    return complex(float(real), float(imaginary))


PlainUnpickler.names = {
    ("collections", "OrderedDict"): Known(_ordered_dict),
    ("collections", "Counter"): Known(_counter),
    ("collections", "defaultdict"): Known(_default_dict),
    ("argparse", "Namespace"): Known(_namespace),
    ("yacs.config", "CfgNode"): Known(_ordered_dict),  # in files of projects based on Swin
    ("_codecs", "encode"): Known(_encode),
    **{
        (module, name): Known(build)
        for module in ("builtins", "__builtin__")
        for name, build in (
            *(("set", _set), ("bytes", _bytes), ("bytearray", _bytearray)),
            ("complex", _complex),
        )
    },
    **ARRAYS,
}


class InertUnpickler(PlainUnpickler):
    """An unpickler that replaces unknown names by placeholders."""

    inert = True


def read_pickle(path: Path, kind: type[PlainUnpickler] = PlainUnpickler):
    """Read a pickle with one of the unpicklers."""
    with open_regular(path) as file:
        content = file.read()
    return kind(io.BytesIO(content), len(content)).load()
