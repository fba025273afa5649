"""The metadata of an exported file: read back as written, and refused if they are not valid."""

import json

import pytest

from models_mm.deployment.description import KEY, read_description
from models_mm.errors import UserError

from .rules import rule


@pytest.mark.parametrize("changes", [{}, {"shape": (64, 96), "mask_thr": None}])
def test_what_is_written_is_read(changes):
    written = rule(**changes)
    assert read_description({KEY: written.text()}, "a.onnx") == written


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("classes", [], "a.onnx: metadata classes must be a list"),
        ("scale", [10**6, 48], "a.onnx: metadata scale must be a pair of sides in pixels"),
        ("shape", [64], "a.onnx: metadata shape must be a pair of sides in pixels or None"),
        ("std", [0, 1, 1], "a.onnx: metadata std must be a list"),
        ("dtype", "float64", "a.onnx: metadata dtype must be uint8 or float32, not 'float64'"),
        (
            "classes",
            ["half a letter \ud800"],
            "a.onnx: metadata classes must be a list, each item a",
        ),
        ("interpolation", "box", "a.onnx: metadata interpolation must be nearest, bilinear"),
        ("format", 2, "a.onnx: metadata format must be 1, not 2"),
        ("further", 1, "those of another version of models_mm: export again"),
    ],
)
def test_wrong_metadata(name, value, message):
    content = json.loads(rule().text()) | {name: value}
    with pytest.raises(UserError, match=message):
        read_description({KEY: json.dumps(content)}, "a.onnx")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "a.onnx was not written by `models_mm export`"),
        ({KEY: "{"}, "are no JSON"),
        ({KEY: "[" * 100_000}, "are no JSON"),
        ({KEY: "[]"}, "of another version"),
    ],
)
def test_no_metadata(metadata, message):
    with pytest.raises(UserError, match=message):
        read_description(metadata, "a.onnx")
