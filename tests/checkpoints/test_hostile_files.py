"""Files made to crash the reader, to run code, or to take all memory or time; one by one."""

import logging
import os
import stat
import time

import models_mm  # noqa: F401  isort: skip
import numpy as np
import pytest
import torch

from models_mm.checkpoints import read_checkpoint, write_checkpoint
from models_mm.checkpoints.runs import check_whole, find_newest, point_latest, read_meta, sweep
from models_mm.checkpoints.state import check_optimizer, check_state
from models_mm.errors import CheckpointError, UserError
from models_mm.mmdet2.result_files import load_results, write_results

from ..soak.files import GRANTED, MULTIPLE, TwoImages, resident, rle
from . import hostile

READERS = (read_checkpoint, read_meta, lambda path: load_results(str(path), TwoImages()))


def read_by_all(path) -> list[str]:
    """What the readers refuse a file with; each within bounds of memory and time."""
    refusals = []
    for reader in READERS:
        begun, before = time.process_time(), resident("VmRSS", reset=True)
        try:
            reader(path)
        except UserError as error:
            assert len(str(error)) < 2000 and str(error).isprintable()
            refusals.append(str(error))
        assert resident("VmHWM") - before <= GRANTED + MULTIPLE * path.stat().st_size
        assert time.process_time() - begun < 30
    return refusals


@pytest.mark.parametrize("form", ["archive", "pickle"])
@pytest.mark.parametrize("name", hostile.crafted())
def test_crafted(tmp_path, name, form):
    suffix, build = hostile.FORMATS[form]
    path = tmp_path / f"file{suffix}"
    path.write_bytes(build(hostile.entry("a", hostile.crafted()[name]), {"0": b"A" * 8}))
    read_by_all(path)


@pytest.mark.parametrize("form", hostile.FORMATS)
def test_no_code_runs(tmp_path, form):
    """Whatever a pickle names or calls, and however it does."""
    suffix, build = hostile.FORMATS[form]
    trace = tmp_path / "trace"
    for name, code in hostile.payloads(str(trace)).items():
        for place, content in hostile.as_content(code).items():
            path = tmp_path / f"file{suffix}"
            path.write_bytes(build(content))
            # beside weights, a checkpoint's readers take it for a name; results are plain data
            assert read_by_all(path), (name, place)
            assert not trace.exists(), (name, place)


@pytest.mark.parametrize("name", hostile.safetensors_files())
def test_safetensors(tmp_path, name):
    path = tmp_path / "file.safetensors"
    path.write_bytes(hostile.safetensors_files()[name])
    assert read_by_all(path)


@pytest.mark.parametrize("name", hostile.archives())
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives(tmp_path, name):
    path = tmp_path / "file.pth"
    path.write_bytes(hostile.archives()[name])
    refusals = read_by_all(path)
    if name in ("whole", "legacy", "names outside"):
        weight = read_checkpoint(path)["state_dict"].get("weight")
        assert weight is None or bytes(weight.numpy()) == b"A" * 8
    else:
        assert any(str(path) in refusal for refusal in refusals)


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
def test_no_regular_file(tmp_path, suffix):
    """A pipe that nobody writes to, a folder, a device without end: one line each, at once."""
    pipe, folder, device = (tmp_path / f"{name}{suffix}" for name in ("pipe", "folder", "zero"))
    os.mkfifo(pipe)
    folder.mkdir()
    device.symlink_to("/dev/zero")
    for path in (pipe, folder, device):
        for reader in READERS:
            with pytest.raises(UserError, match="no regular file"):
                reader(path)


# --- what a training goes on from


@pytest.fixture
def trained():
    torch.manual_seed(0)
    checkpoint = hostile.small_checkpoint()
    state = dict(
        python=[3, torch.arange(625), None],
        numpy=["MT19937", torch.arange(624), 5, 0, 0.0],
        torch=torch.get_rng_state(),
    )
    progress = dict(inner_iter=3, world_size=1, unevaluated=False, gradients={}, attributes=[{}])
    return {**checkpoint, "progress": {**progress, "random_states": [state]}}


WRONG_FIELDS = {
    "meta": [None, [1]],
    "meta.iter": ["12", -1, 1 << 50, None, 1.5, True],
    "meta.epoch": ["1", -1, [1]],
    "meta.seed": ["a", -3],
    "meta.hook_msgs": ["a", {1: 2}],
    "progress": [[1], "a"],
    "progress.inner_iter": ["1", -1, None],
    "progress.world_size": [0, "2"],
    "progress.unevaluated": ["yes", 1],
    "progress.gradients": [{"a": 1}, [1]],
    "progress.attributes": [{"a": 1}, [1]],
    "progress.random_states": [{"a": 1}, [1]],
    "progress.random_states.0.python": [None, [3, torch.arange(624), None], [2, 1, 1]],
    "progress.random_states.0.numpy": [
        ["MT19937", torch.arange(624), 100_000, 0, 0.0],
        ["MT19937", torch.arange(3), 0, 0, 0.0],
        ["PCG64", torch.arange(624), 0, 0, 0.0],
    ],
    "progress.random_states.0.torch": [torch.zeros(5), torch.zeros(5056, dtype=torch.uint8), None],
}


@pytest.mark.parametrize("field", WRONG_FIELDS)
def test_wrong_fields_are_named(tmp_path, trained, field, caplog):
    """By whoever looks at them first; the newest whole checkpoint is another one then."""
    write_checkpoint(trained, tmp_path / "epoch_1.pth")
    check_whole(tmp_path / "epoch_1.pth")
    for value in WRONG_FIELDS[field]:
        *parents, last = field.split(".")
        place = trained
        for key in parents:
            place = place[int(key) if key.isdigit() else key]
        before, place[last] = place[last], value
        torch.save(trained, tmp_path / "epoch_2.pth")
        path, meta = find_newest(str(tmp_path), logging.getLogger())
        assert path.endswith("epoch_1.pth") and meta["iter"] == 9
        with pytest.raises(CheckpointError, match=field.replace(".0", r"\[0\]").split("=")[0]):
            check_state(trained, tmp_path / "epoch_2.pth")
        place[last] = before
    check_state(trained, tmp_path / "epoch_2.pth")


@pytest.mark.parametrize("change", ["groups", "shape", "kind", "numbers"])
def test_state_of_another_optimizer(trained, change):
    parameters = [torch.nn.Parameter(torch.zeros(4, 3, 3, 3)), torch.nn.Parameter(torch.zeros(4))]
    parameters += [torch.nn.Parameter(torch.zeros(4)) for _ in range(2)]
    optimizer = torch.optim.AdamW(parameters)
    check_optimizer(optimizer, trained["optimizer"], "file.pth")
    state = trained["optimizer"]
    if change == "groups":
        state["param_groups"][0]["params"].pop()
    elif change == "shape":
        state["state"][0]["exp_avg"] = torch.zeros(7)
    elif change == "kind":
        state["state"] = [1, 2]
    else:
        state["param_groups"][0]["params"][0] = "a"
    with pytest.raises(CheckpointError, match=r"file.pth: optimizer\."):
        check_optimizer(optimizer, state, "file.pth")


# --- results


BOXES, NONE = np.ones((2, 5), np.float32), np.ones((0, 5), np.float32)


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (3, "is neither boxes"),
        ([BOXES, [1], BOXES], "has boxes that are not"),
        (([BOXES] * 3, [[rle()], [], []]), "not as many masks"),
        (([BOXES] * 3, 3), "not as many masks"),
        (([BOXES] * 3, [1, 2, 3]), "not as many masks"),
        (([BOXES, NONE, NONE], [[rle(), {"size": [8, 8]}], [], []]), "mask without size"),
        (
            (
                [BOXES, NONE, NONE],
                [[rle(), {"size": [100_000, 100_000], "counts": "P2"}], [], []],
            ),
            "of the size",
        ),
        (
            ([BOXES, NONE, NONE], [[rle(), {"size": [8, 8], "counts": "P2P2"}], [], []]),
            "invalid RLE",
        ),
        (([BOXES, NONE, NONE], [[rle(), np.ones((9, 8), bool)], [], []]), "of the size"),
    ],
)
def test_results_that_no_detector_gives(tmp_path, result, said):
    write_results(
        [([BOXES, NONE, NONE], [[rle(), rle()], [], []]), result], str(tmp_path / "a.pkl")
    )
    with pytest.raises(UserError, match=f"the result of image 1 .*{said}"):
        load_results(str(tmp_path / "a.pkl"), TwoImages())


def test_results_are_read_as_written(tmp_path):
    result = ([BOXES, NONE, NONE], [[rle(), np.ones((8, 8), bool)], [], []])
    write_results([result] * 2, str(tmp_path / "new" / "a.pkl"))
    back = load_results(str(tmp_path / "new" / "a.pkl"), TwoImages())
    assert np.array_equal(back[1][0][0], BOXES) and back[0][1][0][0] == rle()
    assert os.listdir(tmp_path / "new") == ["a.pkl"]


# --- temporary names


def test_links_under_temporary_names_are_not_followed(tmp_path, monkeypatch):
    """Even whoever could guess the name gets nothing overwritten."""
    target, path = tmp_path / "target", tmp_path / "epoch_1.pth"
    target.write_text("precious")
    for name in (f".epoch_1.pth.{os.getpid()}.tmp", f".latest.pth.{os.getpid()}.tmp"):
        (tmp_path / name).symlink_to(target)
    write_checkpoint({"meta": {}}, path)
    point_latest(path)
    assert target.read_text() == "precious" and not path.is_symlink()
    monkeypatch.setattr("secrets.token_hex", lambda length: "guessed")
    (tmp_path / ".epoch_1.pth.guessed.tmp").symlink_to(target)
    with pytest.raises(FileExistsError):
        write_checkpoint({"meta": {}}, path)
    assert target.read_text() == "precious"


def test_permissions_are_those_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_checkpoint({"meta": {}}, tmp_path / "a.pth")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.pth").stat().st_mode) == 0o640


def test_leftovers_are_swept(tmp_path):
    """Those of writes that were killed, of now and of earlier versions; nothing else."""
    kept = [tmp_path / "epoch_1.pth", tmp_path / "notes.tmp"]
    left = [tmp_path / ".epoch_1.pth.3f.tmp", tmp_path / ".latest.pth.123.tmp"]
    for path in kept + left:
        path.write_text("x")
    sweep(str(tmp_path))
    assert sorted(tmp_path.iterdir()) == sorted(kept)
