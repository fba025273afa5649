"""An exported detector in use: OpenVINO, a web server, thousands of images."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import models_mm
from models_mm.cli import benchmark
from models_mm.deployment.preprocessing import graph_inputs
from models_mm.mmdet2.benchmark import openvino_core

from ..documents import ROOT, fences
from ..mmdet2.compat.conftest import free_port
from ..mmdet2.test_export import run
from ..mmdet2.test_plain_detector import photos

pytestmark = pytest.mark.slow
STARTING = 60  # seconds


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """An exported Mask R-CNN."""
    pytest.importorskip("onnxscript")
    return run(tmp_path_factory.mktemp("service"), "mask")


@pytest.fixture
def detector(file):
    return models_mm.Detector(file, score_thr=0.0, providers=["cpu"], threads=1)


def test_openvino_computes_the_same(file, detector):
    """Its CPU plugin reads the file as it is; it rounds to bfloat16 where a processor has it."""
    pytest.importorskip("openvino")
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino_core().compile_model(str(file), "CPU", exact)
    for some in (photos()[:1], photos()):
        inputs = graph_inputs(some, detector.model.description)
        expected = detector.model.run(some)
        found = {value.get_any_name(): array for value, array in compiled(inputs).items()}
        assert np.array_equal(found["count"], expected["count"]) and expected["count"].any()
        assert np.array_equal(found["labels"], expected["labels"])
        np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=0.01)
        np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-4)
        np.testing.assert_allclose(found["masks"], expected["masks"], atol=1e-3)


def test_benchmark_beside_pytorch_and_openvino(file):
    pytest.importorskip("openvino")
    (config,), (weights,) = (map(str, file.parent.glob(f"*.{end}")) for end in ("py", "pth"))
    out = file.parent / "figures.json"
    targets, threads = [str(file), config, weights, "--shape", "48", "64"], torch.get_num_threads()
    benchmark.main([*targets, "--rounds", "1", "--device", "cpu", "--openvino", "--out", str(out)])
    torch.set_num_threads(threads)  # the tests after this one compute with as many as before
    rows = json.loads(out.read_text())["rows"]
    assert [row["name"] for row in rows] == [config, str(file), f"{file} (OpenVINO)"]
    assert all(row["ms"] > 0 for row in rows)


def test_signals_after_two_detectors_of_openvino(file):
    """Whichever ends first: with a core of its own each, the first one's end breaks signals."""
    pytest.importorskip("openvino")
    program = f"""
import gc, os, signal
from models_mm.mmdet2.benchmark import OpenVINOModel
signal.signal(signal.SIGUSR1, lambda *_: print("received"))
first, second = (OpenVINOModel({str(file)!r}, threads=1) for _ in range(2))
del first
gc.collect()
del second
gc.collect()
os.kill(os.getpid(), signal.SIGUSR1)
print("goes on")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "received\ngoes on\n"), done.stderr


def test_memory_does_not_grow(file):
    """2000 images of many sizes, in a process of their own."""
    program = f"""
import os, numpy as np, models_mm
detector = models_mm.Detector({str(file)!r}, score_thr=0.0, providers=["cpu"], threads=1)
rng, used = np.random.default_rng(0), []
for number in range(2000):
    height, width = rng.integers(20, 120, 2)
    detector(rng.integers(0, 256, (height, width, 3), np.uint8))
    if number % 500 == 499:
        pages = int(open("/proc/self/statm").read().split()[1])
        used.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
print(*used)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    first, *_, last = map(float, done.stdout.split())  # MB
    assert last - first < 20, done.stdout


def test_the_server_of_the_documents(file, detector, tmp_path):
    """Concurrent requests are answered like one after the other; bad photos do no harm."""
    pytest.importorskip("uvicorn"), pytest.importorskip("fastapi")
    (program,) = (text for _, text, _ in fences("docs/deploy.md") if "FastAPI(" in text)
    used = "work_dirs/first/detector.onnx"
    assert used in program
    (tmp_path / "server.py").write_text(program.replace(used, str(file)))
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "server:app", "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    address = f"http://127.0.0.1:{port}/detect"
    contents = [cv2.imencode(".png", photo)[1].tobytes() for photo in photos()]

    def ask(content: bytes) -> list:
        request = urllib.request.Request(address, content, {"Content-Type": "image/png"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)

    with subprocess.Popen(command, cwd=tmp_path, env=environment) as server:
        try:
            wait_for(f"http://127.0.0.1:{port}/docs")
            expected = [ask(content) for content in contents]
            for photo, answer in zip(photos(), expected, strict=True):
                found = detector(photo)
                sure = found.scores >= 0.3
                assert [thing["class"] for thing in answer] == list(np.array(found.names)[sure])
                for thing, box in zip(answer, found.boxes[sure], strict=True):
                    np.testing.assert_allclose(thing["box"], box, atol=0.01)
            with ThreadPoolExecutor(8) as pool:
                assert list(pool.map(ask, contents * 8)) == expected * 8
            with pytest.raises(urllib.error.HTTPError) as refused:
                ask(b"no picture")
            assert refused.value.code == 400
            assert "is no image" in json.load(refused.value)["detail"]
            assert ask(contents[0]) == expected[0]
        finally:
            server.terminate()


def wait_for(address: str) -> None:
    """Wait until a server answers."""
    end = time.monotonic() + STARTING
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            assert time.monotonic() < end, "the server does not start"
            time.sleep(0.2)
