"""Checkpoints, results and safetensors that are mutated or crafted: refused in a line, or read.

Each is read by everything that reads such files, in a process of its own, which is watched: it must
not end by a signal, leave the payload's trace, take more memory than ``MULTIPLE`` times the file
(and ``GRANTED``) or more time than ``SECONDS``, or raise anything else than a ``UserError``.
"""

import io
import json
import logging
import pickle
import random
import select
import subprocess
import sys
import time
from pathlib import Path

from .tally import Tally

MULTIPLE, GRANTED = 64, 96 << 20
SECONDS = 60


def soak(count: int, seed: int, folder: Path) -> Tally:
    """Try that many files; each is made from the seed and its number."""
    cases = folder / "cases"
    cases.mkdir()
    for number in range(count):
        suffix, content = made(number, random.Random(f"{seed} {number}"), trace_of(cases, number))
        (cases / f"{number}{suffix}").write_bytes(content)
    tally, first = Tally(), 0
    while first < count:
        first = watch(cases, first, count, seed, tally)
    return tally


def trace_of(cases: Path, number: int) -> Path:
    """What a payload of that case would leave behind."""
    return cases / f"trace-{number}"


def watch(cases: Path, first: int, count: int, seed: int, tally: Tally) -> int:
    """Have the cases from a number on read by a process; returns the first that is left over."""
    command = [sys.executable, "-m", __name__, str(cases), str(first), str(count)]
    reader = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, bufsize=1)
    number, waits = first, 10 * SECONDS  # for its imports
    try:
        while number < count:
            ready, _, _ = select.select([reader.stdout], [], [], waits)
            line = reader.stdout.readline() if ready else ""
            what = f"case {number} of seed {seed} ({next(cases.glob(f'{number}.*')).name})"
            if not line:
                reader.kill()
                ended = reader.wait()
                why = "ends the process, " + str(ended) if ready else f"takes over {waits} s"
                tally.fail(f"{what} {why}")
                return number + 1
            if not line.startswith("{"):
                continue  # something that a library prints
            outcome = json.loads(line)
            waits = 2 * SECONDS
            if outcome.get("ready"):
                continue
            if trace_of(cases, number).exists():
                outcome["wrong"].append("ran its code")
            if outcome["wrong"]:
                tally.fail(f"{what}: {'; '.join(outcome['wrong'])}")
            else:
                tally.count("refused" if outcome["refused"] else "read")
            number += 1
    finally:
        reader.kill()
        reader.wait()
        reader.stdout.close()
    return number


# --- the files


def made(number: int, rng: random.Random, trace: Path) -> tuple[str, bytes]:
    """A case's suffix and content."""
    from tests.checkpoints import hostile

    kind = number % 5
    if kind == 0:
        suffix, build = rng.choice(list(hostile.FORMATS.values()))
        code = rng.choice(list(hostile.payloads(str(trace)).values()))
        return suffix, build(rng.choice(list(hostile.as_content(code).values())))
    if kind == 1:
        suffix, build = rng.choice(list(hostile.FORMATS.values()))
        code = rng.choice(list(hostile.crafted().values()))
        content = rng.choice(list(hostile.as_content(code).values()))
        return suffix, build(content, {"0": b"A" * 8})
    if kind == 2:
        suffix, build = rng.choice(list(hostile.FORMATS.values()))
        return suffix, build(program(rng), {"0": b"A" * 8})
    if kind == 3 and rng.random() < 0.5:
        suffix = rng.choice([".safetensors", ".pth"])
        found = hostile.safetensors_files() if suffix != ".pth" else hostile.archives()
        return suffix, rng.choice(list(found.values()))
    suffix, content = rng.choice(sound_files())
    return suffix, mutated(content, rng)


def sound_files() -> list[tuple[str, bytes]]:
    """Files with nothing wrong, of each format."""
    import numpy as np
    import torch
    from safetensors.torch import save

    from tests.checkpoints import hostile

    checkpoint = hostile.small_checkpoint()
    results = [([np.ones((2, 5), np.float32)] * 3, [[rle(), rle()]] * 3) for _ in range(2)]
    found = []
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer, _use_new_zipfile_serialization=zipped)
        found.append((".pth", buffer.getvalue()))
    found += [(".pkl", pickle.dumps(results, protocol=protocol)) for protocol in (2, 4, 5)]
    found.append((".safetensors", save(dict(checkpoint["state_dict"]), {"meta": '{"iter": 3}'})))
    return found


def rle() -> dict:
    """A mask in run lengths."""
    return {"size": [8, 8], "counts": "P2"}


def mutated(content: bytes, rng: random.Random) -> bytes:
    """A file with flipped bits, a part cut out, doubled, or moved."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 3, 20])):
        # structure is at the beginning of each of the formats, and an archive's also at its end
        limit = rng.choice([len(data), min(len(data), 600)])
        place = rng.randrange(limit) if rng.random() < 0.8 else -rng.randrange(1, limit + 1)
        way = rng.randrange(6)
        if way == 0:
            data[place] ^= 1 << rng.randrange(8)
        elif way == 1:
            data[place] = rng.choice([0, 1, 0x2E, 0x52, 0x62, 0x7F, 0x80, 0xFF])
        elif way == 2:
            data[place : place + 8] = rng.randbytes(8)
        elif way == 3:
            del data[place : place + rng.randrange(1, 50)]
        elif way == 4:
            begin = rng.randrange(len(data))
            data[place:place] = data[begin : begin + rng.randrange(1, 200)]
        elif rng.random() < 0.2:
            del data[place:]
        if len(data) < 20:
            break
    return bytes(data)


def program(rng: random.Random) -> bytes:
    """A random pickle out of the codes, names and numbers that a reader knows."""
    from models_mm.checkpoints.archives import NAMES
    from tests.checkpoints import hostile

    names = [hostile.name(f"{module}.{name}") for module, name in NAMES]
    values = [
        lambda: hostile.number(rng.choice([0, 1, 2, 5, -1, 255, 1 << 31, -(1 << 63), 1 << 70])),
        lambda: hostile.text(rng.choice(["a", "f8", "storage", "0", "<", "state_dict", "meta"])),
        lambda: hostile.octets(rng.randbytes(rng.choice([0, 1, 8]))),
        lambda: rng.choice(names),
        lambda: rng.choice([b"N", b"\x88", b"\x89", b")", b"]", b"}", b"\x8f", b"("]),
        lambda: hostile.storage("0", 2),
        lambda: hostile.tensor(hostile.storage("0", 2), *rng.choice(SHAPES)),
        lambda: hostile.array((2,), "f4", hostile.octets(rng.randbytes(8))),
        lambda: hostile.numbers(*(rng.randrange(-1, 4) for _ in range(rng.randrange(4)))),
        lambda: b"h" + bytes([rng.randrange(6)]),
    ]
    uses = [b"R", b"\x81", b"b", b"a", b"e", b"s", b"u", b"t", b"\x85", b"\x86", b"\x87", b"\x90"]
    uses += [b"\x91", b"0", b"1", b"2", b"l", b"d", b"Q", b"\x93", b"\x92", b"o", b"\x94"]
    uses += [b"q" + bytes([n]) for n in range(6)]
    code = b""
    for _ in range(rng.randrange(2, 40)):
        code += rng.choice(values)() if rng.random() < 0.6 else rng.choice(uses)
    return code


SHAPES = [(0, (2,), (1,)), (1, (1,), (1,)), (0, (3,), (1,)), (0, (), ()), (0, (9, 9), (0, 0))]


# --- the process that reads


class TwoImages:
    """The data set whose results the readers take the files for."""

    data_infos = [{"height": 8, "width": 8}] * 2
    CLASSES = ("a", "b", "c")

    def __len__(self) -> int:
        return 2


def read_all(cases: Path, first: int, count: int) -> None:
    """Read cases with every reader; prints a line of JSON for each."""
    import models_mm  # noqa: F401  isort: skip
    import torch

    from models_mm.checkpoints.files import plain, read_checkpoint
    from models_mm.checkpoints.identify import identify
    from models_mm.checkpoints.loading import unwrap
    from models_mm.checkpoints.runs import NAME, check_whole, find_newest, read_meta
    from models_mm.errors import UserError
    from models_mm.mmdet2.result_files import load_results

    def identified(path: str) -> None:
        checkpoint = read_checkpoint(path)
        plain(checkpoint)
        identify(unwrap(checkpoint, path), path)

    def newest(path: str) -> None:
        folder = cases / "work_dir"
        folder.mkdir(exist_ok=True)
        (folder / "epoch_1.pth").unlink(missing_ok=True)
        (folder / "epoch_1.pth").symlink_to(path)
        assert NAME.fullmatch("epoch_1.pth")
        find_newest(str(folder), logging.getLogger("soak"))

    def checked(path: str) -> None:
        try:
            check_whole(path)
        except Exception as error:  # of whatever kind, as it says
            raise UserError(str(error)) from error

    torch.set_num_threads(1)
    logging.disable()
    identified_once(identified, cases, UserError)
    readers = [read_checkpoint, read_meta, checked, newest, identified]
    readers.append(lambda path: load_results(path, TwoImages()))
    print(json.dumps({"ready": True}), flush=True)
    for number in range(first, count):
        path = str(next(cases.glob(f"{number}.*")))
        wrong, refused = [], 0
        allowed = GRANTED + MULTIPLE * Path(path).stat().st_size
        for reader in readers:
            begun, before = time.monotonic(), resident("VmRSS", reset=True)
            try:
                reader(path)
            except UserError as error:
                refused += 1
                message = str(error)
                if len(message) > 3000 or not message.replace("\n", "").isprintable():
                    wrong.append(f"{reader.__name__} says {message[:300]!r}")
            except BaseException as error:
                wrong.append(f"{reader.__name__} raises {type(error).__name__}: {error!s:.200}")
            taken, lasted = resident("VmHWM") - before, time.monotonic() - begun
            if taken > allowed:
                wrong.append(f"{reader.__name__} takes {taken >> 20} MiB of {allowed >> 20}")
            if lasted > SECONDS:
                wrong.append(f"{reader.__name__} takes {lasted:.0f} s")
        print(json.dumps({"wrong": wrong, "refused": bool(refused)}), flush=True)


def identified_once(identified, cases: Path, error: type[Exception]) -> None:
    """Build what the readers share, so that no case has to pay for it."""
    import torch

    path = cases / "first.pt"
    torch.save({"weight": torch.zeros(2)}, path)
    try:
        identified(str(path))
    except error:
        pass
    path.unlink()


def resident(field: str, reset: bool = False) -> int:
    """Memory of this process in bytes: what it has, or (VmHWM) has had since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) << 10
    raise LookupError(field)


if __name__ == "__main__":
    read_all(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
