"""The benchmark as a user calls it, on the smallest of inputs."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_direct_form_beside_the_package(run_tool, tmp_path):
    out = tmp_path / "figures.json"
    done = run_tool(
        *(ROOT / "tools/benchmark.py", "biformer_s:direct", "biformer_s", "--shape", 256, 256),
        *("--device", "cpu", "--threads", 1, "--rounds", 1, "--no-memory", "--out", out),
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    direct, ours = json.loads(out.read_text())["rows"]
    assert direct["params"] == ours["params"]
    # nothing is padded at this size, so that both do the same products
    assert ours["gflops"] == pytest.approx(direct["gflops"], rel=1e-9)


@pytest.mark.parametrize("target", ["biformer_x:direct", "recnext_m3:direct", "recnext_m3:slow"])
def test_a_target_that_does_not_exist_is_named(run_tool, target):
    done = run_tool(ROOT / "tools/benchmark.py", target)
    assert done.returncode and "Traceback" not in done.stderr
    assert f"error: {target}" in done.stderr
