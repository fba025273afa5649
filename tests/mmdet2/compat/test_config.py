"""Configs written out by mmcv: read back, they are the same."""

import sys
from pathlib import Path

import mmcv.utils.config
import pytest
from mmcv import Config

from models_mm.mmdet2.compat import config

CONFIGS = Path(__file__).parents[3] / "configs"
NAME = "recnext/mask_rcnn_recnext_m3_fpn_1x_coco.py"


@pytest.fixture
def cfg():
    return Config.fromfile(str(CONFIGS / NAME))


def plain(cfg):
    return cfg._cfg_dict.to_dict()


@pytest.mark.parametrize(
    "text",
    [
        "o'brien",
        'a"b',
        "a'b\"c",
        "a\\b",
        "a\\nb",
        "a\nb\r",
        "ends\\",
        "{{ fileDirname }}",
        "{{_base_.x}}",
    ],
)
def test_texts_are_themselves(text, tmp_path):
    settings = {"x": text, "y": [text, 1], "z": {"a b": (text,), text: text}, "w": [{"v": text}]}
    file = tmp_path / "again.py"
    Config(settings).dump(str(file))
    assert plain(Config.fromfile(str(file))) == settings


def test_pretty_text_is_the_config(cfg, tmp_path):
    file = tmp_path / "again.py"
    file.write_text(cfg.pretty_text)
    assert plain(Config.fromfile(str(file))) == plain(cfg)


def test_pretty_text_of_a_config_that_is_no_file():
    cfg = Config(dict(a=1, b=dict(c=[1, 2], d=None), e={"not-a-name": (3, 4)}))
    scope = {}
    exec(cfg.pretty_text, scope)
    assert {key: scope[key] for key in "abe"} == plain(cfg)


@pytest.mark.parametrize("suffix", ["py", "json", "yml"])
def test_dump(cfg, tmp_path, suffix):
    file = tmp_path / f"dumped.{suffix}"
    cfg.dump(str(file))
    again = plain(Config.fromfile(str(file)))
    if suffix == "py":
        assert again == plain(cfg)
    assert again["model"] == plain(cfg)["model"]


@pytest.mark.parametrize("verify", [{}, {"verify": True}, {"verify": False}])
def test_formatter_takes_verify(verify):
    # mmcv 1.7.0 and 1.7.1 pass it, whatever yapf's version
    text, changed = mmcv.utils.config.FormatCode("a=[1,2]", **verify)
    assert text == "a = [1, 2]\n"
    assert changed


def test_apply_twice():
    formatter = mmcv.utils.config.FormatCode
    config.apply()
    assert mmcv.utils.config.FormatCode is formatter


@pytest.mark.slow
def test_grammar_that_another_process_is_writing(run_tool, tmp_path):
    """yapf's cache as it is for a moment after an installation, in a process of its own."""
    environment = dict(XDG_CACHE_HOME=str(tmp_path))
    code = "import models_mm, mmcv; print(mmcv.Config(dict(a=1)).pretty_text)"
    say = (sys.executable, "-c", code)
    assert run_tool(*say, **environment).stdout == "a = 1\n\n"
    cached = list(tmp_path.rglob("*Grammar*.pickle"))
    if not cached:
        pytest.skip("this yapf keeps no cache")
    for content in (b"", cached[0].read_bytes()[:100]):
        for file in cached:
            file.write_bytes(content)
        done = run_tool(*say, **environment)
        assert done.stdout == "a = 1\n\n", done.stderr[-1000:]
        assert all(file.stat().st_size > 1000 for file in cached)
