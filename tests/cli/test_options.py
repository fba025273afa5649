"""The command lines: every option of mmdet 2.28.2's own tools, and a --help for each tool."""

import re
from pathlib import Path

import mmdet
import pytest

ROOT = Path(__file__).resolve().parents[2]
MMDET_TOOLS = Path(mmdet.__file__).parent / ".mim" / "tools"
TOOLS = sorted(p.name for p in (ROOT / "tools").glob("*.py") if p.name != "_checkout.py")


@pytest.mark.parametrize("tool", ["train.py", "test.py"])
def test_every_option_of_mmdet_is_there(tool):
    """By name, in the source of both: hidden options count as well."""
    theirs = set(re.findall(r"'(--[a-z_-]+)'", (MMDET_TOOLS / tool).read_text()))
    sources = [ROOT / "models_mm" / "cli" / name for name in (tool, "command.py")]
    ours = set(re.findall(r'"(--[a-z_-]+)"', "".join(file.read_text() for file in sources)))
    assert {"--launcher", "--cfg-options", "--local_rank"} <= theirs
    assert theirs <= ours
    assert "--local-rank" in ours  # what torch.distributed.launch passes today


@pytest.mark.slow
@pytest.mark.parametrize("tool", TOOLS)
def test_help(run_tool, tool, tmp_path):
    """From any folder, without the package installed for it."""
    done = run_tool(ROOT / "tools" / tool, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout and len(done.stdout.splitlines()) > 4


@pytest.mark.slow
def test_benchmark_measures_side_by_side(run_tool, tmp_path):
    out = tmp_path / "figures.json"
    done = run_tool(
        *(ROOT / "tools/benchmark.py", "recnext_m3", "recnext_m3:fused", "--shape", 64, 64),
        *("--rounds", 2, "--mode", "infer", "train", "--out", out),
    )
    assert done.returncode == 0, done.stderr
    table = done.stdout.splitlines()
    assert table[0].startswith("1x3x64x64, float32") and len(table) == 4
    plain = table[2].split()
    # 7.72432 M parameters; 1.4 G multiply-adds at 224x224 are 0.114 G at 64x64
    assert plain[:3] == ["recnext_m3", "7.72", "0.11"] and plain[4] == "1.00"
    assert out.is_file()
    done = run_tool(ROOT / "tools/benchmark.py", "recnext_m9")
    assert done.returncode == 1 and "recnext_m9: neither a config" in done.stderr


def test_check_env(run_tool, tmp_path):
    """Versions and operators; 1 and an explanation when something is wrong."""
    done = run_tool(ROOT / "tools/check_env.py", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert re.search(r"^operators +(torchvision|mmcv-full)$", done.stdout, re.M)
    assert "everything is in order" in done.stdout
    for name in ("mmcv", "mmcv_full"):
        info = tmp_path / f"{name}-1.7.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.7.2\n"
        )
    done = run_tool(ROOT / "tools/check_env.py", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert re.search(
        r"^WRONG +both mmcv 1.7.2 and mmcv-full 1.7.2 are installed", done.stdout, re.M
    )
