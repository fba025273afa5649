"""Checkpoints with objects of other packages: weights load without a flag, and nothing runs."""

import models_mm  # isort: skip  # noqa: F401  (before mmdet, which needs it)

import argparse
import collections
import dataclasses
import enum
import functools
import io
import os
import pathlib
import pickle
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from mmdet.models import build_backbone
from safetensors.torch import save_file

from models_mm.checkpoints import load_pretrained, read_checkpoint, write_checkpoint
from models_mm.checkpoints.files import plain
from models_mm.errors import CheckpointError

TINY = dict(type="RecNeXt", arch=dict(series="m", width=8, depths=(1, 1, 1, 1), mlp_ratio=1))


def backbone():
    return build_backbone(dict(TINY))


@pytest.fixture
def package(monkeypatch):
    """Classes under the names of another package, which is there only until a file is written."""

    def make(module: str, *classes):
        stand_in = types.ModuleType(module)
        for cls in classes:
            cls.__module__, cls.__qualname__ = module, cls.__name__
            setattr(stand_in, cls.__name__, cls)
        parent, _, child = module.rpartition(".")
        if parent:
            monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
            setattr(sys.modules[parent], child, stand_in)
        monkeypatch.setitem(sys.modules, module, stand_in)

    return make


def omegaconf(package):
    """A DictConfig: nodes that know their parents, in a state of their own."""

    class AnyNode:
        pass

    class DictConfig:
        pass

    class ContainerMetadata:
        pass

    package("omegaconf.dictconfig", DictConfig, AnyNode, ContainerMetadata)
    config, node = DictConfig(), AnyNode()
    node.__dict__ |= {"_val": 1e-3, "_parent": config}
    metadata = ContainerMetadata()
    metadata.__dict__ |= {"ref_type": dict, "key_type": object, "element_type": None}
    config.__dict__ |= {"_content": {"lr": node}, "_parent": None, "_metadata": metadata}
    return config


def yacs(package):
    class CfgNode(dict):
        pass

    package("yacs.config", CfgNode)
    node = CfgNode(MODEL=CfgNode(TYPE="x"), LR=[1, 2])
    node.__dict__["__immutable__"] = True
    return node


def easydict(package):
    """A dictionary's subclass that is filled after it was made."""

    class EasyDict(dict):
        pass

    package("easydict", EasyDict)
    return EasyDict(a=1, b=EasyDict(c=[2]))


def choices(package):
    class Mode(enum.Enum):
        FAST = 1

    package("their.options", Mode)
    return {"mode": Mode.FAST, Mode.FAST: "a key"}


def settings(package):
    @dataclasses.dataclass
    class Settings:
        lr: float = 0.1
        where: pathlib.Path = pathlib.Path("/data")

    package("their.settings", Settings)
    return [Settings(), Settings]


def namespace(package):
    return argparse.Namespace(
        output=pathlib.Path("out"), cfg=omegaconf(package), seeds=(1, 2), data=settings(package)
    )


def standard_library(package):
    groups = collections.defaultdict(list, {"a": [1]})
    return [groups, functools.partial(print, 1), pathlib.PurePosixPath("x"), range(3), slice(1, 2)]


def schedule(package):
    """A scheduler that was stored instead of its state."""
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0, momentum=0.9)
    weight.sum().backward()
    optimizer.step()  # its state has the parameter as a key
    return [torch.optim.SGD, torch.optim.lr_scheduler.StepLR(optimizer, 3).state_dict(), optimizer]


def modules(package):
    """Modules that were stored whole; the older format has their source code beside them."""
    averaged = torch.optim.swa_utils.AveragedModel(torch.nn.Linear(2, 2))
    return {"ema": averaged, "loss": torch.nn.L1Loss(), "norm": functools.partial(torch.nn.ReLU)}


def randomness(package):
    """States of generators, and the generators."""
    return [np.random.RandomState(1), np.random.default_rng(2), np.random.get_state()]


def numpy_s_own(package):
    """Types that no tensor has, alone and in arrays, and classes of arrays."""
    records = np.zeros(2, [("a", "i4"), ("b", "f4")])
    times = np.array(["2020-01-01"], "M8[D]")
    alone = [np.str_("run"), np.bytes_(b"x"), times[0], np.longdouble(1), np.str_("")]
    arrays = [np.array(["cat", "zebra"]), np.array([b"cat"]), times, records, np.ones(2, "g")]
    kinds = [np.dtype("U3"), np.dtype("f4"), records.dtype, np.float32]
    return [*alone, *arrays, *kinds, np.ma.array([1], mask=[True]), np.rec.array(records)]


def torch_s_own(package):
    """What describes tensors, as values and as keys."""
    things = [torch.Size([1, 2]), torch.device("cuda", 1), torch.bfloat16, torch.strided]
    return [*things, {thing: 1 for thing in things[:3]}]


ARGS = (
    *(omegaconf, yacs, easydict, choices, settings, namespace, standard_library, schedule),
    *(modules, randomness, numpy_s_own, torch_s_own),
)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("args", ARGS, ids=lambda make: make.__name__)
def test_weights_beside_objects_load_without_a_flag(args, legacy, package, monkeypatch, tmp_path):
    source, target, path = backbone(), backbone(), tmp_path / "trained.pth"
    weights = {f"module.{key}": value for key, value in source.state_dict().items()}
    averaged = {key: torch.zeros_like(value) for key, value in weights.items()}
    with monkeypatch.context():
        checkpoint = {"args": args(package), "model": weights, "model_ema": averaged, "epoch": 3}
        torch.save(checkpoint, path, _use_new_zipfile_serialization=not legacy)
    monkeypatch.undo()  # the other package is not installed here
    load_pretrained(target, str(path))
    for key, value in source.state_dict().items():
        assert torch.equal(value, target.state_dict()[key]), key
    found = read_checkpoint(path)
    assert found["epoch"] == 3 and "args" in found
    kept, _ = plain(found)
    write_checkpoint(kept, tmp_path / "plain.pth")
    torch.load(tmp_path / "plain.pth", weights_only=True)


@pytest.mark.parametrize("key", ["state_dict_ema", "model_ema"])
def test_averaged_weights_count_where_there_are_no_others(key, tmp_path):
    source, target, path = backbone(), backbone(), tmp_path / "averaged.pth"
    torch.save({key: source.state_dict(), "epoch": 3}, path)
    load_pretrained(target, str(path))
    for name, value in source.state_dict().items():
        assert torch.equal(value, target.state_dict()[name]), name


def test_averaged_weights_do_not_replace_a_model_that_was_not_read(package, tmp_path):
    path = tmp_path / "pickled.pth"
    torch.save({"model": namespace(package), "model_ema": backbone().state_dict()}, path)
    with pytest.raises(CheckpointError, match="no state dict of tensors; found: model, model_ema"):
        load_pretrained(backbone(), str(path))


def test_what_was_left_out_is_named(package, tmp_path):
    path = tmp_path / "trained.pth"
    torch.save({"model": {"w": torch.ones(1)}, "args": namespace(package)}, path)
    _, dropped = plain(read_checkpoint(path))
    assert "args.cfg (omegaconf.dictconfig.DictConfig)" in dropped
    assert "args.output (pathlib" in " ".join(dropped)


def test_an_array_of_texts_is_no_array_of_numbers(tmp_path):
    """Not even a weight: what was not read is not converted either."""
    texts = np.array(["cat", "zebra"])
    torch.save({"model": {"w": torch.ones(1)}, "args": {"names": texts}}, tmp_path / "a.pth")
    kept, dropped = plain(read_checkpoint(tmp_path / "a.pth"))
    assert kept["args"] == {} and dropped == ["args.names (numpy.ndarray)"]
    torch.save({"model": {"w": texts}}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="no state dict of tensors"):
        load_pretrained(backbone(), str(tmp_path / "b.pth"))


@pytest.mark.parametrize("meta", [["a list"], argparse.Namespace(epoch=3), "text", None])
def test_meta_of_another_form_is_left_alone(meta, tmp_path):
    torch.save({"state_dict": {"w": torch.ones(1)}, "meta": meta}, tmp_path / "a.pth")
    assert read_checkpoint(tmp_path / "a.pth")["meta"] == {}


def test_meta_that_no_text_holds_is_left_out_of_safetensors(tmp_path):
    meta = {"epoch": 3, "rng": torch.ones(2), "raw": b"x", (1, 2): "a key", "names": ("cat",)}
    path = tmp_path / "a.safetensors"
    write_checkpoint({"state_dict": {"w": torch.ones(1)}, "meta": meta}, path)
    kept = {"epoch": 3, "rng": None, "raw": None, "names": ["cat"]}
    assert read_checkpoint(path)["meta"] == kept


def test_safetensors_need_no_flag(tmp_path):
    source, target = backbone(), backbone()
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    load_pretrained(target, str(tmp_path / "weights.safetensors"))
    key = "stem.stem.0.conv.weight"
    assert torch.equal(source.state_dict()[key], target.state_dict()[key])


# --- hostile files


class Calls:
    """An object that is made by a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Builds:
    """An object whose state is to be set on what a call gives."""

    def __reduce__(self):
        return types.SimpleNamespace, (), {"__class__": os.mkdir}


MARK = "ran"
HOSTILE = {
    "a command": Calls(os.system, f"touch {MARK}"),
    "a folder": Calls(os.mkdir, MARK),
    "an expression": Calls(eval, f"__import__('os').mkdir('{MARK}')"),
    "statements": Calls(exec, f"import os; os.mkdir('{MARK}')"),
    "a process": Calls(subprocess.Popen, ["touch", MARK]),
    "a file": Calls(open, MARK, "w"),
    "an attribute": Calls(getattr, Calls(dict), "get"),
    "a call in a call": Calls(map, Calls(eval, "print"), [Calls(os.mkdir, MARK)]),
    "a partial call": Calls(functools.reduce, os.mkdir, [MARK]),
    "a pickle in a pickle": Calls(pickle.loads, pickle.dumps(Calls(os.mkdir, MARK))),
    "torch's own unpickling": Calls(torch.load, io.BytesIO(b"x")),
    "a state": Builds(),
}


@pytest.mark.parametrize("where", ["args", "model"])
@pytest.mark.parametrize("what", HOSTILE)
def test_nothing_runs(what, where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    contents = {"model": {"w": torch.ones(1)}, "args": {}}
    contents[where]["x"] = HOSTILE[what]
    for legacy in (False, True):
        file = io.BytesIO()
        torch.save(contents, file, _use_new_zipfile_serialization=not legacy)
        (tmp_path / "hostile.pth").write_bytes(file.getvalue())
        found = read_checkpoint(tmp_path / "hostile.pth")
        assert torch.equal(found["model"]["w"], torch.ones(1))
        if where == "model":  # what is no tensor is no weight
            with pytest.raises(CheckpointError, match="no state dict of tensors"):
                load_pretrained(backbone(), str(tmp_path / "hostile.pth"))
    assert os.listdir(tmp_path) == ["hostile.pth"]


def test_no_module_is_imported(tmp_path, monkeypatch):
    """Not even looking up a name has an effect."""
    (tmp_path / "trap.py").write_text(f"import os\nos.mkdir({str(tmp_path / MARK)!r})\nx = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "hostile.pkl"
    path.write_bytes(b"\x80\x02}X\x04\x00\x00\x00argsctrap\nx\ns.")
    assert repr(read_checkpoint(path)["args"]) == "<trap.x, not read>"
    assert not (tmp_path / MARK).exists() and "trap" not in sys.modules


def test_object_arrays_stay_refused(tmp_path):
    torch.save({"model": np.array([Calls(os.mkdir, MARK)], object)}, tmp_path / "hostile.pth")
    with pytest.raises(CheckpointError, match="not read here .an array of Python objects"):
        read_checkpoint(tmp_path / "hostile.pth")


def test_a_whole_model_says_what_it_is(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="it holds a torch.nn.modules.linear.Linear, not a"):
        read_checkpoint(tmp_path / "model.pth")
