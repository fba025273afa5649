"""Read PyTorch's checkpoint files, today's (zip archives) and those before 1.6, within bounds.

Every length that a file states is checked against the file before memory is allocated for it: the
members, the storages, and the place of each tensor in its storage. All weights are read to the CPU.
"""

import io
import math
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch

from models_mm.checkpoints.inert import OBJECT, Known, refuse
from models_mm.checkpoints.pickles import GRANTED, MULTIPLE, InertUnpickler, PlainUnpickler
from models_mm.disk import open_regular

ZIP = b"PK\x03\x04"  # the first bytes of an archive
LEGACY = 0x1950A86A20F9469CFC6C  # the first number of the older format
TENSOR = 1500  # bytes of memory besides its values
CHUNK = 1 << 20
DTYPES = {
    name: value
    for name, value in vars(torch).items()
    if isinstance(value, torch.dtype) and (value.is_floating_point or value.is_complex)
} | {name: getattr(torch, name) for name in ("bool", "uint8", "int8", "int16", "int32", "int64")}
DTYPES |= {n: getattr(torch, n) for n in ("uint16", "uint32", "uint64") if hasattr(torch, n)}
STORAGES = dict(
    Double=torch.float64,
    Float=torch.float32,
    Half=torch.float16,
    BFloat16=torch.bfloat16,
    Long=torch.int64,
    Int=torch.int32,
    Short=torch.int16,
    Char=torch.int8,
    Byte=torch.uint8,
    Bool=torch.bool,
    ComplexDouble=torch.complex128,
    ComplexFloat=torch.complex64,
)


class StorageKind(NamedTuple):
    """A class of storages and the type of their numbers."""

    dtype: torch.dtype


class Storage(NamedTuple):
    """A storage and the type of its numbers."""

    data: torch.UntypedStorage
    dtype: torch.dtype


class TorchUnpickler(InertUnpickler):
    """An unpickler of plain data, arrays, and tensors in storages of their own.

    Args:
        file: where the pickle is read from.
        size: size of the pickle in bytes; what it builds is limited by that.
        whole: size of the whole file in bytes, with the values of its tensors.
        storage: makes the storage for a key and a number of bytes.
    """

    def __init__(
        self, file, size: int, whole: int, storage: Callable[[str, int], torch.UntypedStorage]
    ):
        super().__init__(file, size)
        self.largest = GRANTED + MULTIPLE * whole
        self.storage = storage
        self.storages: dict[str, torch.UntypedStorage] = {}

    def persistent_load(self, pid):
        if type(pid) is tuple and len(pid) == 4 and pid[0] == "module":
            return pid[1]  # the older format stores the source code of a module beside its class
        if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage":
            refuse("it refers to something else than a storage")
        _, kind, key, _, number, *view = pid
        if type(kind) is not StorageKind or type(key) is not str or view not in ([], [None]):
            refuse("it refers to a storage of no known kind")
        if type(number) is not int or number < 0:
            refuse(f"storage {key:.20} has {number!r:.20} values")
        size = number * kind.dtype.itemsize
        if key not in self.storages:
            self.charge(TENSOR)
            self.storages[key] = self.storage(key, size)
        if self.storages[key].nbytes() != size:
            refuse(f"storage {key:.20} has two sizes")
        return Storage(self.storages[key], kind.dtype)


def read_archive(file: BinaryIO, weights: bool = True):
    """Read a checkpoint in the current format.

    Args:
        file: opened for reading.
        weights: read the values of tensors; otherwise the tensors have no values (device ``meta``).

    Raises:
        Exception: the file is damaged, or contains more than weights and plain data.
    """
    archive, folder = open_archive(file)
    with archive:
        order = f"{folder}/byteorder"
        if order in archive.NameToInfo and archive.read(order) != b"little":
            refuse("it was written by a machine of another byte order")
        members = archive.NameToInfo
        whole = left = os.fstat(file.fileno()).st_size

        def storage(key: str, size: int) -> torch.UntypedStorage:
            nonlocal left
            member = members.get(f"{folder}/data/{key}")
            if member is None or member.file_size != size:
                refuse(f"storage {key:.20} is missing or of another size")
            left -= size
            if left < 0:
                refuse("its storages are larger than the file")
            if not weights:
                return torch.UntypedStorage(size, device="meta")
            return read_storage(file, member, size)

        pickled = archive.read(f"{folder}/data.pkl")
        return TorchUnpickler(io.BytesIO(pickled), len(pickled), whole, storage).load()


def open_archive(file: BinaryIO) -> tuple[zipfile.ZipFile, str]:
    """Open the archive of a checkpoint; also returns the name of its only folder.

    Raises:
        Exception: it is damaged, or has compressed members (torch writes none, and they may become
            a thousand times as large), or members that overlap.
    """
    archive, size = zipfile.ZipFile(file), os.fstat(file.fileno()).st_size
    names = archive.namelist()
    folders = [name.removesuffix("/data.pkl") for name in names if name.endswith("/data.pkl")]
    if len(folders) != 1:
        refuse("it is an archive of something else than a checkpoint")
    if len(set(names)) != len(names):
        refuse("two of its members have one name")
    for member in archive.infolist():
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            refuse(f"its member {member.filename:.60} is compressed or encrypted")
        if member.file_size != member.compress_size:
            refuse(f"its member {member.filename:.60} has two sizes")
    if sum(member.file_size for member in archive.infolist()) > size:
        refuse("its members are larger than the file")
    return archive, folders[0]


def read_storage(file: BinaryIO, member: zipfile.ZipInfo, size: int) -> torch.UntypedStorage:
    """Read the bytes of a storage directly from their place in the file."""
    file.seek(member.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != ZIP:
        refuse(f"its member {member.filename:.60} is missing")
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    file.seek(lengths, os.SEEK_CUR)
    return filled_storage(file, size)


def filled_storage(file: BinaryIO, size: int) -> torch.UntypedStorage:
    """Read the next bytes of a file into a new storage."""
    values = torch.empty(size, dtype=torch.uint8)
    if file.readinto(memoryview(values.numpy())) != size:
        refuse("its values end too early")
    return values.untyped_storage()


class Bounded:
    """A file that refuses to read beyond its end."""

    def __init__(self, file: BinaryIO):
        self.file, self.size = file, os.fstat(file.fileno()).st_size

    def read(self, number: int = -1) -> bytes:
        if number < 0 or (number > CHUNK and number > self.size - self.file.tell()):
            raise EOFError("it ends too early")
        return self.file.read(number)

    def readline(self) -> bytes:
        return self.file.readline(CHUNK)


def read_legacy(file: BinaryIO, weights: bool = True):
    """Read a checkpoint in the format before PyTorch 1.6; as :func:`read_archive`."""
    bounded = Bounded(file)
    size = left = bounded.size
    head = [PlainUnpickler(bounded, size).load() for _ in range(3)]
    if head[0] != LEGACY or type(head[2]) is not dict or not head[2].get("little_endian"):
        refuse("it does not begin as a checkpoint does")

    def storage(key: str, size: int) -> torch.UntypedStorage:
        nonlocal left
        left -= size
        if left < 0:
            refuse("its storages are larger than the file")
        return torch.UntypedStorage(size, device="cpu" if weights else "meta")

    reader = TorchUnpickler(bounded, size, size, storage)
    content = reader.load()
    if not weights:
        return content
    keys = PlainUnpickler(bounded, size).load()
    if type(keys) is not list or set(keys) != set(reader.storages) or len(set(keys)) != len(keys):
        refuse("it has other storages than its tensors")
    for key in keys:
        fill_storage(file, reader.storages[key])
    return content


def fill_storage(file: BinaryIO, storage: torch.UntypedStorage) -> None:
    """Read a length and then as many bytes of a file into a storage."""
    number, size = int.from_bytes(file.read(8), "little"), storage.nbytes()
    if size not in [number * width for width in (1, 2, 4, 8, 16)]:  # of values, not bytes
        refuse("a storage has two sizes")
    if size:
        values = torch.empty(0, dtype=torch.uint8).set_(storage, 0, (size,), (1,))
        if file.readinto(memoryview(values.numpy())) != size:
            refuse("its values end too early")


# --- the table of names: tensors and what describes them


def _tensor(
    reader: TorchUnpickler, storage, offset, size, stride, grad=False, hooks=None, metadata=None
) -> torch.Tensor:
    if type(storage) is not Storage or metadata:
        refuse("a tensor without storage, or with more than its values")
    return _typed_tensor(reader, storage, offset, size, stride, grad, hooks, storage.dtype)


def _typed_tensor(
    reader: TorchUnpickler, storage, offset, size, stride, grad, hooks, dtype, metadata=None
) -> torch.Tensor:
    """Make a tensor in a storage, after a check that it lies within the storage."""
    if type(storage) is not Storage or type(dtype) is not torch.dtype or metadata:
        refuse("a tensor without storage, or with more than its values")
    size, stride = whole_numbers(size), whole_numbers(stride)
    (offset,) = whole_numbers((offset,))
    if len(size) != len(stride):
        refuse("a tensor with other dimensions than strides")
    values = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    held = storage.data.nbytes()
    if values and (last + 1) * dtype.itemsize > held:
        refuse("a tensor lies outside of its storage")
    # an expanded tensor takes the memory of all its values as soon as it is copied
    reader.charge(TENSOR + max(0, values * dtype.itemsize - held))
    tensor = torch.empty(0, dtype=dtype, device=storage.data.device)
    tensor.set_(storage.data, offset, size, stride)
    return tensor.requires_grad_(grad is True and (dtype.is_floating_point or dtype.is_complex))


def whole_numbers(values) -> tuple[int, ...]:
    """Check lengths, strides or an offset."""
    if type(values) not in (tuple, torch.Size) or len(values) > 64:
        refuse("a tensor without shape")
    if any(type(value) is not int or not 0 <= value < 1 << 48 for value in values):
        refuse("a tensor whose shape or strides cannot be")
    return tuple(values)


def _parameter(reader: TorchUnpickler, data, grad=True, hooks=None, state=None):
    if not isinstance(data, torch.Tensor):
        refuse("a parameter without tensor")
    reader.charge(TENSOR)
    number = data.is_floating_point() or data.is_complex()
    return torch.nn.Parameter(data.detach(), requires_grad=grad is True and number)


def _with_attributes(reader: TorchUnpickler, known, kind, arguments, state):
    """A tensor without the Python attributes that it had."""
    if (
        known not in (NAMES["torch._utils", name] for name in TENSORS)
        or type(arguments) is not tuple
    ):
        refuse("a tensor of another kind")
    return known.build(reader, *arguments)


def _size(reader: TorchUnpickler, size=()) -> torch.Size:
    reader.charge(OBJECT)
    return torch.Size(whole_numbers(tuple(size)))


def _device(reader: TorchUnpickler, name, index=None) -> torch.device:
    reader.charge(OBJECT)
    return torch.device(name) if index is None else torch.device(name, index)


def _layout(reader: TorchUnpickler, name) -> torch.layout:
    if name != "torch.strided":
        refuse("a tensor that is not dense")
    return torch.strided


TENSORS = {
    "_rebuild_tensor": _tensor,
    "_rebuild_tensor_v2": _tensor,
    "_rebuild_tensor_v3": _typed_tensor,
    "_rebuild_parameter": _parameter,
    "_rebuild_parameter_with_state": _parameter,
}
NAMES = TorchUnpickler.names = {
    **PlainUnpickler.names,
    **{
        (module, f"{name}Storage"): StorageKind(dtype)
        for name, dtype in STORAGES.items()
        for module in ("torch", "torch.cuda")
    },
    ("torch.storage", "UntypedStorage"): StorageKind(torch.uint8),
    **{("torch", name): dtype for name, dtype in DTYPES.items()},
    **{("torch._utils", name): Known(build) for name, build in TENSORS.items()},
    ("torch._tensor", "_rebuild_from_type_v2"): Known(_with_attributes),
    ("torch", "Tensor"): Known(),
    ("torch.nn.parameter", "Parameter"): Known(),
    ("torch", "Size"): Known(_size),
    ("torch", "device"): Known(_device),
    ("torch.serialization", "_get_layout"): Known(_layout),
}


def read_torch(path: Path, weights: bool = True):
    """Read a PyTorch checkpoint of either format; as :func:`read_archive`."""
    with open_regular(path) as file:
        zipped = file.read(4) == ZIP
        file.seek(0)
        return (read_archive if zipped else read_legacy)(file, weights)
