"""Reading files that are what they should be, and files that are not; writing them whole."""

import argparse
import collections
import io
import os
import pickle

import numpy as np
import pytest
import torch

from models_mm.checkpoints import read_checkpoint, write_checkpoint
from models_mm.errors import CheckpointError

# torch's remarks on odd files, which it makes before it refuses them
pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle", "ignore:'torch.load' received")

WEIGHTS = {"state_dict": {"weight": torch.arange(600.0).view(20, 30)}}


def refusal(path, **kwargs) -> str:
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(path, **kwargs)
    return str(error.value)


# --- missing and damaged files


@pytest.mark.parametrize(
    "name", ["recnext_m3_distill_300e.pth", "recnext_a5_without_distill_300e.pth"]
)
def test_missing_published_file(tmp_path, name):
    message = refusal(tmp_path / name)
    assert message.startswith(f"checkpoint not found: {tmp_path / name}\n")
    assert "https://github.com/suous/RecNeXt" in message


def test_missing_file_of_unknown_origin(tmp_path):
    assert refusal(tmp_path / "epoch_12.pth") == f"checkpoint not found: {tmp_path}/epoch_12.pth"


def test_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(WEIGHTS, tmp_path / "file.pth")
    assert read_checkpoint("~/file.pth").keys() == {"state_dict"}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("part", [0.001, 0.05, 0.2, 0.5, 0.9, 0.99, 0.999])
def test_truncated(tmp_path, part, legacy):
    buffer = io.BytesIO()
    torch.save(WEIGHTS, buffer, _use_new_zipfile_serialization=not legacy)
    content = buffer.getvalue()
    path = tmp_path / "short.pth"
    path.write_bytes(content[: int(part * len(content))])
    message = refusal(path)
    assert f"{path} cannot be read ({path.stat().st_size:,} bytes; " in message
    assert "the file is truncated, damaged or no PyTorch checkpoint" in message
    assert "weights_only" not in message  # torch's hint at how to run what the file brings along


@pytest.mark.parametrize("legacy", [False, True])
def test_damaged_anywhere(tmp_path, legacy):
    """Whatever byte is wrong, and whatever torch makes of it: read, or refused with a message."""
    buffer = io.BytesIO()
    torch.save(WEIGHTS, buffer, _use_new_zipfile_serialization=not legacy)
    content, random = buffer.getvalue(), np.random.RandomState(0)
    path, refused = tmp_path / "damaged.pth", 0
    for _ in range(300):
        # the values are in the second half: the structure before them, where harm is done
        damaged = bytearray(content)
        damaged[random.randint(min(len(content), 900))] = random.randint(256)
        path.write_bytes(damaged)
        try:
            read_checkpoint(path)
        except CheckpointError as error:
            refused += 1
            assert str(path) in str(error)
    assert refused > 50


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"epoch 12: bbox_mAP 0.412\n",
        b"<!DOCTYPE html><html>Not Found</html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    ],
)
def test_no_checkpoint_at_all(tmp_path, content):
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    assert f"{path} cannot be read ({len(content)} bytes; " in refusal(path)


def test_unreadable_file(tmp_path):
    if os.geteuid() == 0:
        path = "/proc/self/mem"  # a file that even root cannot read from its start
    else:
        path = tmp_path / "secret.pth"
        torch.save(WEIGHTS, path)
        path.chmod(0)
    message = refusal(path)
    assert message.startswith(f"{path} cannot be read: ")
    assert "truncated" not in message


def test_torchscript_archive(tmp_path):
    path = tmp_path / "recnext_m3_fused.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    assert f"{path} is a TorchScript archive" in refusal(path)


def test_something_else_than_a_dictionary(save):
    message = refusal(save(torch.zeros(3)))
    assert message.endswith("is not a checkpoint: it holds a Tensor, not a dictionary")


# --- content beyond weights


class Settings:
    """An object of the author's own code."""


def test_objects_are_names_only(save):
    content = {"settings": Settings(), "groups": collections.defaultdict(list, a=[1])}
    checkpoint = read_checkpoint(save({**WEIGHTS, **content}))
    assert repr(checkpoint["settings"]).endswith("test_files.Settings, not read>")
    assert checkpoint["groups"] == {"a": [1]}
    assert torch.equal(checkpoint["state_dict"]["weight"], WEIGHTS["state_dict"]["weight"])


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol(save, protocol, legacy):
    kwargs = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": not legacy}
    checkpoint = read_checkpoint(save({**WEIGHTS, "meta": {"epoch": 3}}, **kwargs))
    assert checkpoint["meta"] == {"epoch": 3}
    assert torch.equal(checkpoint["state_dict"]["weight"], WEIGHTS["state_dict"]["weight"])


def test_plain_data_of_a_training(save):
    """What mmcv, mmdet and the classification trainings of DeiT's descent put into a file."""
    content = {
        "meta": {
            "CLASSES": ("person", "bicycle"),
            "PALETTE": [(220, 20, 60)],
            "env_info": "Python: 3.8",
            "hook_msgs": {"best_score": 0.412, "best_ckpt": "best.pth"},
            "seed": None,
        },
        "optimizer": torch.optim.AdamW([torch.zeros(2, requires_grad=True)]).state_dict(),
        "args": argparse.Namespace(model="recnext_m3", lr=1e-3, betas=None),
        "shape": torch.Size([2, 3]),
        "dtype": torch.float16,
        "names": {"a", "b"},
    }
    assert read_checkpoint(save({**WEIGHTS, **content}))["meta"] == content["meta"]


NUMBERS = [np.float64(0.25), np.float32(0.5), np.float16(2), np.int64(7), np.int32(-3), np.bool_(1)]


class OldNames(pickle._Pickler):
    """Writes the module names of NumPy 1, as files written with it have them."""

    def save_global(self, obj, name=None):
        if getattr(obj, "__module__", "") == "numpy._core.multiarray":
            self.write(f"cnumpy.core.multiarray\n{obj.__name__}\n".encode())
            self.memoize(obj)
        else:
            super().save_global(obj, name)

    dispatch = {**pickle._Pickler.dispatch, type(save_global): save_global}


class OldNumpy:
    """A pickle module for ``torch.save``."""

    Pickler = OldNames
    dumps, dump = staticmethod(pickle.dumps), staticmethod(pickle.dump)


@pytest.mark.parametrize("names", ["numpy._core", "numpy.core"])
@pytest.mark.filterwarnings("ignore:dtype.*align")  # of torch's unpickler, with NumPy >= 2.4
def test_numpy_numbers(save, names):
    kwargs = {"pickle_module": OldNumpy} if names == "numpy.core" else {}
    path = save({**WEIGHTS, "meta": {"best": NUMBERS}}, **kwargs)
    content = open(path, "rb").read()
    assert f"c{names}.multiarray\nscalar".encode() in content
    best = read_checkpoint(path)["meta"]["best"]
    assert best == NUMBERS
    assert [type(number) for number in best] == [type(number) for number in NUMBERS]


# --- writing


def test_written_is_read(tmp_path):
    path = tmp_path / "file.pth"
    write_checkpoint({**WEIGHTS, "meta": {"epoch": 1}}, path)
    checkpoint = read_checkpoint(path)
    assert checkpoint["meta"] == {"epoch": 1}
    assert torch.equal(checkpoint["state_dict"]["weight"], WEIGHTS["state_dict"]["weight"])
    assert os.listdir(tmp_path) == ["file.pth"]


def test_writing_replaces(tmp_path):
    path = tmp_path / "file.pth"
    for epoch in (1, 2):
        write_checkpoint({"meta": {"epoch": epoch}}, path)
    assert read_checkpoint(path)["meta"] == {"epoch": 2}
    assert os.listdir(tmp_path) == ["file.pth"]


class FailsHalfway:
    def __reduce__(self):
        raise RuntimeError("no space left, say")


def test_failed_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.pth"
    write_checkpoint({"meta": {"epoch": 1}}, path)
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="no space left"):
        write_checkpoint({**WEIGHTS, "meta": FailsHalfway()}, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["file.pth"]


def test_folder_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_checkpoint(WEIGHTS, tmp_path / "none" / "file.pth")
