"""Files that nobody should have to read: built code by code, and put into every format."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from functools import lru_cache

import torch

PROTO, STOP = b"\x80\x02", b"."


# --- a pickle's codes


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def octets(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


def name(dotted: str) -> bytes:
    module, _, attribute = dotted.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def called(dotted: str, *arguments: bytes) -> bytes:
    """The call of a function with arguments that are codes themselves."""
    return name(dotted) + b"(" + b"".join(arguments) + b"tR"


def entry(key: str, value: bytes) -> bytes:
    """A dictionary of one entry."""
    return b"}" + text(key) + value + b"s"


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(key: str, count: int, kind: str = "torch.FloatStorage", location: str = "cpu") -> bytes:
    parts = (text("storage"), name(kind), text(key), text(location), number(count))
    return b"(" + b"".join(parts) + b"tQ"


def tensor(place: bytes, offset: int, size: tuple, stride: tuple, grad: bytes = b"\x89") -> bytes:
    hooks = name("collections.OrderedDict") + b")R"
    more = (number(offset), numbers(*size), numbers(*stride), grad, hooks)
    return called("torch._utils._rebuild_tensor_v2", place, *more)


def array(shape: tuple, code: str, data: bytes, order: str = "<") -> bytes:
    """A NumPy array in NumPy's own protocol."""
    state = b"(" + number(3) + text(order) + b"NNN" + number(-1) * 2 + number(0) + b"t"
    dtype = called("numpy.dtype", text(code), b"\x89", b"\x88") + state + b"b"
    empty = called(
        "numpy.core.multiarray._reconstruct", name("numpy.ndarray"), numbers(0), octets(b"b")
    )
    return empty + b"(" + number(1) + numbers(*shape) + dtype + b"\x89" + data + b"tb"


# --- the formats that a pickle may be in


def archive(code: bytes, storages: dict[str, bytes] | None = None, compression=0) -> bytes:
    """A checkpoint in the format of today."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        file.writestr("archive/data.pkl", PROTO + code + STOP)
        file.writestr("archive/byteorder", "little")
        for key, data in (storages or {}).items():
            file.writestr(f"archive/data/{key}", data)
        file.writestr("archive/version", "3\n")
    return buffer.getvalue()


def legacy(code: bytes, storages: dict[str, bytes] | None = None, width: int = 4) -> bytes:
    """A checkpoint in the format before PyTorch 1.6."""
    head = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True})
    parts = [pickle.dumps(value, protocol=2) for value in head]
    parts += [PROTO + code + STOP, pickle.dumps(list(storages or {}), protocol=2)]
    for data in (storages or {}).values():
        parts += [struct.pack("<q", len(data) // width), data]
    return b"".join(parts)


def plain(code: bytes, _: dict | None = None) -> bytes:
    """A pickle alone."""
    return PROTO + code + STOP


FORMATS: dict[str, tuple[str, Callable]] = {
    "archive": (".pth", archive),
    "legacy": (".pth", legacy),
    "pickle": (".pkl", plain),
}


def payloads(trace: str) -> dict[str, bytes]:
    """Codes that leave a file behind wherever one of them runs."""
    shell, python = f"touch {trace}", f"open({trace!r}, 'w').close()"
    by_text = {
        "os.system": shell,
        "posix.system": shell,
        "subprocess.getoutput": shell,
        "subprocess.check_output": shell,
        "os.popen": shell,
        "builtins.eval": python,
        "builtins.exec": python,
        "__builtin__.eval": python,
        "timeit.timeit": python,
        "cProfile.run": python,
        "pdb.run": python,
        "code.InteractiveInterpreter.runsource": python,
        "torch.utils.collect_env.run": shell,
        "torch.storage._load_from_bytes": python,
        "torch._utils._import_dotted_name": "os.system",
        "importlib.import_module": "antigravity",
        "numpy.testing._private.utils.runstring": python,
        "models_mm.cli.command.run": python,
        "os.mkdir": trace,
        "os.mkfifo": trace,
        "pathlib.Path": trace,
        "runpy.run_path": trace,
        "torch.hub.load": trace,
        "torch.load": trace,
        "numpy.load": trace,
        "shutil.rmtree": trace,
    }
    codes = {dotted: called(dotted, text(value)) for dotted, value in by_text.items()}
    opened = text(trace) + text("w")
    codes["open"] = called("builtins.open", opened)
    codes["io.open"] = called("io.open", opened)
    codes["new object"] = name("io.FileIO") + b"(" + opened + b"t\x81"
    codes["new object by names"] = name("io.FileIO") + b"(" + opened + b"t}\x92"
    codes["instance"] = b"(" + text(shell) + b"ios\nsystem\n"
    codes["object"] = b"(" + name("os.system") + text(shell) + b"o"
    codes["global on the stack"] = text("os") + text("system") + b"\x93(" + text(shell) + b"tR"
    codes["getattr"] = called("builtins.getattr", name("os.path"), text("system"))
    codes["method"] = called("operator.methodcaller", text("system"), text(shell))
    codes["map"] = called("builtins.list", called("builtins.map", name("os.system"), text(shell)))
    codes["state of a function"] = (
        name("torch._utils._rebuild_tensor_v2") + b"N}" + text("__defaults__") + b"Ns\x86b"
    )
    codes["extension"] = b"\x82\x01)R"
    return codes


def _laughs(times: int) -> bytes:
    """A list of ten times a list of ten times ... : small here, and 10 ** times when copied."""
    code = b"]q\x00K\x01a"
    for level in range(times):
        code += b"0](" + b"".join(b"h" + bytes([level]) for _ in range(10)) + b"e"
        code += b"q" + bytes([level + 1])
    return code


@lru_cache
def crafted() -> dict[str, bytes]:
    """Codes that crashed a process, took all of its memory, or might, by name; in any format."""
    raw = octets(b"A" * 8)
    huge, deep = (1 << 40).to_bytes(8, "little"), 100_000
    ndarray, dtype = "numpy.ndarray", "numpy.dtype"
    return {
        "objects from raw memory": called(ndarray, numbers(1), text("O"), raw),
        "objects from raw memory, new": name(ndarray)
        + b"("
        + numbers(1)
        + text("O")
        + raw
        + b"t\x81",
        "strides": called(ndarray, numbers(9), text("f8"), raw, number(0), numbers(1 << 30)),
        "array of objects": array((1,), "O", raw, "|"),
        "array of a list": array((1,), "f8", b"](K\x01e"),
        "array larger than its bytes": array((1 << 30,), "f8", raw),
        "array of a huge shape": array((1 << 39, 1 << 39, 0), "f8", octets(b"")),
        "array of negative length": array((-1,), "f8", raw),
        "array of text": array((1,), "U2", raw),
        "array of records": called(dtype, text("f8,O"), b"\x89", b"\x88"),
        "empty array of a size": called(
            "numpy.core.multiarray._reconstruct", name(ndarray), numbers(1 << 36), octets(b"b")
        ),
        "scalar object": called("numpy.core.multiarray.scalar", called(dtype, text("O")), raw),
        "scalar of too few bytes": called(
            "numpy.core.multiarray.scalar", called(dtype, text("c16")), raw
        ),
        "type with a state of its own": called(dtype, text("f8"))
        + b"("
        + number(4)
        + text("|")
        + b"N"
        + b"("
        + text("a")
        + b"t}"
        + number(1 << 40)
        + number(1)
        + number(63)
        + b"tb",
        "bytes that are not there": b"\x8e" + huge,
        "text that is not there": b"\x8d" + huge,
        "byte array that is not there": b"\x96" + huge,
        "frame that is not there": b"\x95" + huge,
        "integer that is not there": b"\x8b\xff\xff\xff\x7f",
        "bytearray by number": called("builtins.bytearray", number(1 << 40)),
        "memo": b"Nr\xff\xff\xff\x7f",
        "memo of small steps": b"N" + b"".join(b"r" + struct.pack("<I", 1 << n) for n in range(32)),
        "many sets": b"(" + b"\x8f" * 700_000 + b"t",
        "many dictionaries": b"(" + b"}" * 2_000_000 + b"t",
        "much in the memo": b"N" + b"\x94" * 1_000_000,
        "much on the stack": b"(" + b"N2222222222222222222222222" * 20_000 + b"t",
        "copies": b"("
        + b"K\x01" * 50_000
        + b"lq\x00"
        + name("builtins.set")
        + b"q\x01("
        + (b"h\x01h\x00\x85R" * 20_000)
        + b"t",
        "deep key": b"N" + b"\x85" * deep + b"q\x00}h\x00Ns",
        "deep member": b"\x8f(N" + b"\x85" * deep + b"\x90",
        "deep list": b"]" * deep + b"a" * (deep - 1),
        "deep tuple": b"N" + b"\x85" * deep,
        "deep dictionary": b"}N" * deep + b"N" + b"s" * deep,
        "laughs": _laughs(30),
        "itself": b"]q\x00h\x00a",
        "itself in a dictionary": entry("state_dict", b"}q\x00" + text("a") + b"h\x00s"),
        "itself in its key": b"]q\x00h\x00\x85q\x01h\x00h\x01a0}h\x01Ns",
        "keys of one hash": b"}("
        + b"".join(number(1 + n * ((1 << 61) - 1)) + b"N" for n in range(20_000))
        + b"u",
        "long integer": b"I" + b"9" * 2_000_000 + b"\n",
        "long line": b"c" + b"a" * 3_000_000,
        "nothing on the stack": b"0" * 9,
        "mark missing": b"teu",
        "odd items": b"}(Nu",
        "items for a number": b"K\x01K\x02a",
        "items for a tensor": storage("0", 2) + b"K\x02a",
        "state of a list": b"]}" + text("__class__") + b"Nsb",
        "slots of a dictionary": b"}N}" + text("items") + b"Ns\x86b",
        "class of options": name("argparse.Namespace")
        + b")\x81}"
        + text("__class__")
        + name("os.system")
        + b"sb",
        "storage outside": storage("../../../../etc/passwd", 1),
        "storage of negative size": storage("0", -5),
        "storage of huge size": storage("0", 1 << 62),
        "storage of no kind": storage("0", 2, "torch.QInt8Storage"),
        "storage of a module": b"(" + text("module") + name("os.system") + text("a") * 2 + b"tQ",
        "tensor outside": tensor(storage("0", 2), 0, (1 << 20,), (1,)),
        "tensor far outside": tensor(storage("0", 2), 1 << 40, (1,), (1,)),
        "tensor before": tensor(storage("0", 2), -4, (1,), (1,)),
        "tensor backwards": tensor(storage("0", 2), 1, (2,), (-1,)),
        "tensor of overflowing steps": tensor(storage("0", 2), 0, (3, 3), (1 << 62, 1 << 62)),
        "tensor of overflowing size": tensor(storage("0", 2), 0, (1 << 32, 1 << 32, 2), (0, 0, 0)),
        "tensor of one value": tensor(storage("0", 2), 0, (1 << 34,), (0,)),
        "tensor of many axes": tensor(storage("0", 2), 0, (1,) * 90, (1,) * 90),
        "tensor of a number": called("torch._utils._rebuild_tensor_v2", *([number(1)] * 6)),
        "tensor of nothing": called("torch._utils._rebuild_tensor_v2"),
        "huge meta tensor": called(
            "torch._utils._rebuild_meta_tensor_no_storage",
            *(name("torch.float32"), numbers(1 << 50), numbers(1), b"\x89"),
        ),
        "sparse tensor": called(
            "torch._utils._rebuild_sparse_tensor",
            called("torch.serialization._get_layout", text("torch.sparse_coo")),
            b"(" + storage("0", 2) * 3 + b"t",
        ),
        "tensor by its class": name("torch.Tensor") + b"(" + number(1 << 40) + b"t\x81",
        "size": called("torch.Size", numbers(*range(9))) + called("torch.Size", number(1 << 40)),
        "device": called("torch.device", text("privateuseone:9")),
    }


def as_content(code: bytes) -> dict[str, bytes]:
    """A code in the places of a checkpoint where it may lie."""
    meta = b"}" + b"(" + text("epoch") + b"K\x01" + text("iter") + b"K\x02u"
    return {
        "alone": code,
        "weight": entry("state_dict", entry("weight", code)),
        "meta": b"}(" + text("meta") + meta + text("x") + code + b"su",
        "result": b"](" + code + code + b"e",
    }


def safetensors(header: bytes | dict, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file of a header that may be anything, of any stated length."""
    header = json.dumps(header).encode() if isinstance(header, dict) else header
    stated = len(header) if length is None else length
    return struct.pack("<Q", stated & (1 << 64) - 1) + header + data


def safetensors_files() -> dict[str, bytes]:
    """Odd files of that format."""

    def of(**changes) -> dict:
        return {"weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}

    return {
        "empty": b"",
        "length of the header": safetensors(of(), b"A" * 8, length=1 << 62),
        "longer header": safetensors(of(), b"A" * 8, length=1000),
        "no header": safetensors(b"", b"A" * 8),
        "deep header": safetensors(b"[" * 500_000),
        "deep meta": safetensors({"__metadata__": {"meta": "[" * 500_000}}),
        "meta of no dictionary": safetensors({"__metadata__": {"meta": "[1]"}}),
        "wrong meta": safetensors({"__metadata__": {"meta": '{"iter": "12", "epoch": -1}'}}),
        "large shape": safetensors(of(shape=[1 << 60]), b"A" * 8),
        "overflowing shape": safetensors(of(shape=[1 << 40, 1 << 40]), b"A" * 8),
        "negative shape": safetensors(of(shape=[-2]), b"A" * 8),
        "outside": safetensors(of(data_offsets=[0, 1 << 40]), b"A" * 8),
        "backwards": safetensors(of(data_offsets=[8, 0]), b"A" * 8),
        "no type": safetensors(of(dtype="O"), b"A" * 8),
        "no offsets": safetensors({"weight": {}}, b"A" * 8),
        "text": b"not a file of that kind at all",
    }


def archives() -> dict[str, bytes]:
    """Odd archives."""
    code = entry("state_dict", entry("weight", tensor(storage("0", 2), 0, (2,), (1,))))
    whole = archive(code, {"0": b"A" * 8})
    twice = io.BytesIO(whole)
    with zipfile.ZipFile(twice, "a") as file:
        file.writestr("archive/data.pkl", PROTO + b"}" + STOP)
    return {
        "whole": whole,
        "bomb": archive(entry("a", octets(b"\0" * (1 << 26))), compression=zipfile.ZIP_DEFLATED),
        "compressed storage": archive(code, {"0": b"\0" * 8}, compression=zipfile.ZIP_DEFLATED),
        "storage missing": archive(code),
        "storage too short": archive(code, {"0": b"A"}),
        "names outside": archive(code, {"0": b"A" * 8, "../../../../tmp/x": b"A"}),
        "data.pkl twice": twice.getvalue(),
        "no data.pkl": archive(code).replace(b"data.pkl", b"data.pkk"),
        "size of a member": whole.replace(
            struct.pack("<II", 8, 8), struct.pack("<II", 1 << 30, 1 << 30)
        ),
        "big endian": whole.replace(b"little", b"bigbig"),
        "member of a member": archive(code, {"0": whole}),
        "beginning alone": whole[:4],
        "cut": whole[: len(whole) // 2],
        "end alone": whole[len(whole) // 2 :],
        "legacy, other magic": legacy(code, {"0": b"A" * 8}).replace(b"\x6c\xfc", b"\x6c\xfd"),
        "legacy, storage of other size": legacy(code, {"0": b"A" * 80}),
        "legacy, storage cut": legacy(code, {"0": b"A" * 8})[:-4],
        "legacy, other storage": legacy(code, {"1": b"A" * 8}),
        "legacy": legacy(code, {"0": b"A" * 8}),
    }


def small_checkpoint() -> dict:
    """What a training writes, in small."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    return dict(
        meta={"epoch": 1, "iter": 9, "seed": 3, "CLASSES": ("a", "b"), "hook_msgs": {"best": 0.5}},
        state_dict=model.state_dict(),
        optimizer=optimizer.state_dict(),
    )
