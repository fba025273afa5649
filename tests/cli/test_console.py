"""The console command: every tool by its name, configs by theirs, and help at once."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from models_mm.cli import convert, launch, train
from models_mm.cli.main import COMMANDS, dispatch
from models_mm.config_files import find_config, path_of
from models_mm.errors import UserError
from models_mm.version import __version__

ROOT = Path(__file__).resolve().parents[2]
M3 = "mask_rcnn_recnext_m3_fpn_1x_coco"


@pytest.fixture(autouse=True)
def the_tests_command_line_is_kept(monkeypatch):
    """The console command puts a command's own into ``sys.argv``."""
    monkeypatch.setattr(sys, "argv", sys.argv)


def test_every_tool_has_a_command():
    scripts = {path.stem for path in (ROOT / "tools").glob("*.py")} - {"_checkout"}
    assert {command.script for command in COMMANDS.values()} - {""} == scripts
    for script in scripts:
        assert f'tool("{script}")' in (ROOT / f"tools/{script}.py").read_text()
    for command in COMMANDS.values():
        assert (ROOT / f"models_mm/cli/{command.module}.py").is_file()


def test_help_lists_all_commands(capsys):
    with pytest.raises(SystemExit) as ended:
        dispatch(["--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert all(re.search(rf"^  {name} +\S", said, re.M) for name in COMMANDS)


def test_version(capsys):
    with pytest.raises(SystemExit):
        dispatch(["--version"])
    assert capsys.readouterr().out == f"models_mm {__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: COMMAND"),
        (["trian"], "no command 'trian'; did you mean train?"),
        (["data"], "no command 'data'; did you mean data"),
        (["data", "cheek"], "no command 'data cheek'; did you mean data check?"),
        (["--nothing"], "required: COMMAND"),
        (["plot"], "required: LOG.json"),
        (["plot", "a.json", "--wrong"], "models_mm plot: error: unrecognized arguments: --wrong"),
    ],
)
def test_a_command_that_does_not_exist(words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        dispatch(words)
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_help_of_a_group(capsys):
    dispatch(["data", "--help"])
    said = capsys.readouterr().out
    assert said.startswith("usage: models_mm data COMMAND") and "data demo" in said
    with pytest.raises(SystemExit) as ended:
        dispatch(["data", "demo", "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: models_mm data demo [-h]")


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["train", "--help"], ["data", "check", "--help"]]
)
def test_help_imports_neither_torch_nor_a_host(words):
    code = (
        "import sys\n"
        "from models_mm.cli.main import dispatch\n"
        "try:\n"
        f"    dispatch({words!r})\n"
        "except SystemExit as ended:\n"
        "    assert ended.code == 0\n"
        "assert not {'torch', 'mmcv', 'mmdet', 'cv2', 'numpy', 'matplotlib'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout or __version__ in done.stdout


def test_configs_by_name(tmp_path, monkeypatch):
    """From any folder, and without a word about it."""
    monkeypatch.chdir(tmp_path)
    expected = ROOT / f"configs/recnext/{M3}.py"
    assert find_config(M3) == expected == Path(path_of(M3))
    assert path_of("own.py") == "own.py"
    with pytest.raises(UserError, match=f"config not found: .*\n.*did you mean .*{M3}"):
        find_config("mask_rcnn_recnext_m3_1x_coco")


def test_training_by_name_needs_what_its_config_needs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="checkpoint not found: pretrain/recnext_m3_distill_300e"):
        train.main([M3])


def test_conversion_without_the_word(tmp_path):
    """`convert IN OUT` is understood with and without `convert`; files are no commands."""
    for words in ([], ["convert"]):
        with pytest.raises(UserError, match="not found: in.pth"):
            convert.main([*words, "in.pth", str(tmp_path / "out.pth")])


def test_what_the_launcher_starts():
    """A command as dist_train.sh starts it, with the user's options last; a script as it is."""
    assert launch.program(["train", "c.py", "--seed", "3"]) == [
        *("-m", "models_mm", "train", "--default-seed", "0", "--launcher", "pytorch", "c.py"),
        *("--seed", "3"),
    ]
    assert launch.program(["tools/test.py", "c.py"]) == ["tools/test.py", "c.py"]
