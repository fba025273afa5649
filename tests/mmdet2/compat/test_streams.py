"""Copies of data to the device that a process works on."""

import mmcv.parallel._functions as functions
import pytest
import torch
from mmcv.parallel import DataContainer, MMDataParallel

from models_mm.mmdet2.compat import streams

from .tiny_detector import TinyDetector, training_batch

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="copies to a GPU need one")


@pytest.mark.parametrize("device", [0, -1, torch.device("cpu")])
def test_devices_by_index_and_by_name(device):
    stream = functions._get_stream(device)  # as mmcv's scatter asks: by index
    on_gpu = device == 0 and torch.cuda.is_available()
    assert (stream is not None) == on_gpu


@needs_gpu
def test_scatter_copies_to_the_gpu():
    images = torch.rand(2, 3, 8, 8)
    (copied,) = functions.Scatter.forward([0], images)
    assert copied.device == torch.device("cuda", 0)
    assert torch.equal(copied.cpu(), images)


@needs_gpu
def test_training_step_on_the_gpu():
    model = MMDataParallel(TinyDetector().cuda(), device_ids=[0])
    loss = model.train_step(training_batch(0), None)["loss"]
    expected = MMDataParallel(TinyDetector()).train_step(training_batch(0), None)["loss"]
    torch.testing.assert_close(loss.cpu(), expected, rtol=1e-4, atol=0)


def test_scatter_to_the_cpu_unpacks():
    images = torch.rand(2, 3, 8, 8)
    container = DataContainer([images], stack=True)
    (copied,) = functions.Scatter.forward([-1], container.data)
    assert torch.equal(copied, images)


def test_apply_twice():
    streams.apply()
    streams.apply()
    assert functions._get_stream is streams.get_stream
