"""Whatever of mmcv or mmdet reads a checkpoint does so through the package's loader."""

import copy
import http.server
import json
import os
import threading
from functools import partial

import mmcv.runner
import mmcv.runner.checkpoint
import pytest
import torch
from mmcv import Config
from mmcv.cnn.utils.weight_init import INITIALIZERS
from mmcv.runner import CheckpointLoader, EpochBasedRunner
from mmcv.utils import get_logger
from mmdet.apis import inference, init_detector
from mmdet.models import build_detector
from torch import nn

from models_mm import checkpoints
from models_mm.errors import CheckpointError
from models_mm.mmdet2.compat import loading

from .conftest import ROOT


class Malicious:
    """Runs code when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (self.trace,)


class Model(nn.Linear):
    def train_step(self, data, optimizer):  # or mmcv's runner will not have it
        raise NotImplementedError


@pytest.fixture
def model():
    return Model(2, 3)


@pytest.fixture
def good(tmp_path, model):
    file = tmp_path / "good.pth"
    torch.save({"meta": {"epoch": 3}, "state_dict": model.state_dict()}, file)
    return file


@pytest.fixture
def evil(tmp_path, model):
    """A file that would leave a folder named ``ran``."""
    file = tmp_path / "evil.pth"
    content = {"meta": Malicious(str(tmp_path / "ran")), "state_dict": model.state_dict()}
    torch.save(content, file)
    torch.load(file, weights_only=False)
    assert (tmp_path / "ran").is_dir()  # so it does
    (tmp_path / "ran").rmdir()
    yield file
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def site(tmp_path):
    """The folder over HTTP, and a cache of one's own for what is downloaded."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path / "cache"))
    yield f"http://127.0.0.1:{server.server_port}"
    torch.hub.set_dir(hub)
    server.shutdown()
    server.server_close()


def runner_load(path, model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    runner = EpochBasedRunner(model, optimizer=optimizer, logger=get_logger("test"), max_epochs=1)
    runner.load_checkpoint(str(path))


READERS = {
    "load_checkpoint": lambda path, model: mmcv.runner.load_checkpoint(model, str(path)),
    "CheckpointLoader": lambda path, model: CheckpointLoader.load_checkpoint(str(path)),
    "_load_checkpoint": lambda path, model: mmcv.runner._load_checkpoint(str(path)),
    "runner": runner_load,
    "Pretrained": lambda path, model: INITIALIZERS.get("Pretrained")(str(path))(model),
}


@pytest.mark.parametrize("reader", READERS)
def test_code_in_a_checkpoint_does_not_run(reader, evil, model):
    READERS[reader](evil, model)  # the weights are sound; the fixture looks whether it ran


def test_plain_torch_load_refuses_code(evil):
    """What those rely on that call ``torch.load`` themselves: mmcv's s3, pavi and local aliases."""
    with pytest.raises(Exception, match="(?s)GLOBAL posix.mkdir"):
        torch.load(evil)


def test_code_does_not_run_by_url(evil, model, site):
    checkpoint = mmcv.runner.load_checkpoint(model, f"{site}/evil.pth")
    assert checkpoint["meta"] == {}


def test_code_does_not_run_by_alias(evil, model, tmp_path, monkeypatch):
    monkeypatch.setenv("MMCV_HOME", str(tmp_path))
    (tmp_path / "open_mmlab.json").write_text(json.dumps({"local/evil": "evil.pth"}))
    with pytest.raises(Exception, match="(?s)GLOBAL posix.mkdir"):
        mmcv.runner.load_checkpoint(model, "open-mmlab://local/evil")


@pytest.mark.parametrize("reader", ["load_checkpoint", "runner", "Pretrained"])
def test_weights_arrive(reader, good):
    model, other = Model(2, 3), Model(2, 3)
    READERS[reader](good, model)
    mmcv.runner.load_checkpoint(other, str(good))
    assert torch.equal(model.weight, other.weight)
    assert torch.equal(model.weight, torch.load(good)["state_dict"]["weight"])


def test_weights_arrive_by_url_and_are_kept(good, site, tmp_path, model):
    mmcv.runner.load_checkpoint(model, f"{site}/good.pth?download=1")
    assert (tmp_path / "cache" / "checkpoints" / "good.pth").is_file()
    good.unlink()
    checkpoint = mmcv.runner.load_checkpoint(model, f"{site}/good.pth")
    assert checkpoint["meta"] == {"epoch": 3}


def test_a_url_that_does_not_exist(site, model, tmp_path):
    place = tmp_path / "cache" / "checkpoints" / "none.pth"
    with pytest.raises(CheckpointError) as error:
        mmcv.runner.load_checkpoint(model, f"{site}/none.pth")
    assert f"{site}/none.pth cannot be downloaded (HTTP Error 404" in str(error.value)
    assert f"put it at {place}" in str(error.value)
    assert not place.exists()


def test_weights_of_another_gpu_are_read_on_the_cpu(tmp_path, model, monkeypatch):
    file = tmp_path / "gpu.pth"
    with monkeypatch.context() as context:
        context.setattr(torch.serialization, "location_tag", lambda storage: "cuda:5")
        torch.save({"state_dict": model.state_dict()}, file)
    checkpoint = CheckpointLoader.load_checkpoint(str(file))
    assert checkpoint["state_dict"]["weight"].device == torch.device("cpu")


def test_a_wrong_checkpoint_is_an_error_with_strict_off(tmp_path, good):
    # mmcv would log it and go on with initial weights
    with pytest.raises(CheckpointError, match="unexpected: bias, weight"):
        mmcv.runner.load_checkpoint(nn.Sequential(nn.Linear(2, 3)), str(good), strict=False)


@pytest.fixture(scope="module")
def small_detector():
    return Config.fromfile(str(ROOT / "configs/demo/mask_rcnn_recnext_tiny_fpn_demo.py"))


def test_init_detector(small_detector, tmp_path):
    model = build_detector(small_detector.model)
    file = tmp_path / "detector.pth"
    meta = {"CLASSES": ("a", "b", "c", "d", "e")}
    torch.save({"meta": meta, "state_dict": model.state_dict()}, file)
    loaded = init_detector(copy.deepcopy(small_detector), str(file), device="cpu")
    assert loaded.CLASSES == meta["CLASSES"]
    assert not loaded.training
    expected = model.state_dict()
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, expected[key]), key


def test_init_detector_runs_no_code(small_detector, evil):
    with pytest.raises(CheckpointError, match="a whole detector is needed"):
        init_detector(copy.deepcopy(small_detector), str(evil), device="cpu")


def test_every_copy_is_replaced():
    modules = (mmcv.runner, mmcv.runner.checkpoint, mmcv.runner.base_runner, inference)
    assert {module.load_checkpoint for module in modules} == {checkpoints.load_checkpoint}


def test_apply_twice():
    before = dict(CheckpointLoader._schemes), INITIALIZERS.get("Pretrained")
    loading.apply()
    assert (dict(CheckpointLoader._schemes), INITIALIZERS.get("Pretrained")) == before
    assert mmcv.runner.load_checkpoint is checkpoints.load_checkpoint
