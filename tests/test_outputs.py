"""Places of files whose names come from data."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models_mm.errors import UserError
from models_mm.outputs import Outputs, refuse_input

PARTS = st.sampled_from(["a", "b", "..", ".", "", "/", "a.jpg", "link", "x" * 300, "ä\0", "\ud800"])
NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join) | st.text(max_size=12)


@settings(max_examples=60, deadline=None)
@given(names=st.lists(NAMES, min_size=1, max_size=8))
def test_any_names_stay_inside_and_apart(tmp_path_factory, names):
    base = tmp_path_factory.mktemp("base")
    outside, folder = base / "outside", base / "out"
    outside.mkdir()
    folder.mkdir()
    (folder / "link").symlink_to(outside)
    (outside / "mine").write_text("mine")
    (folder / "a").symlink_to(outside / "mine")
    (folder / "b").hardlink_to(outside / "mine")
    (folder / "input.jpg").write_text("input")
    places = Outputs(folder, [folder / "input.jpg"])
    placed = []
    for number, name in enumerate([*names, "input.jpg", "a", "b"]):
        placed.append(places.path(name))
        placed[-1].write_text(str(number))
    assert [place.read_text() for place in placed] == [str(i) for i in range(len(placed))]
    assert all(Path(os.path.realpath(place)).is_relative_to(folder) for place in placed)
    assert (folder / "input.jpg").read_text() == "input"
    assert [path.name for path in outside.iterdir()] == ["mine"]
    assert (outside / "mine").read_text() == "mine"
    assert sorted(path.name for path in base.iterdir()) == ["out", "outside"]


def test_names_keep_their_folders_and_replace_earlier_runs(tmp_path):
    for _ in range(2):
        places = Outputs(tmp_path / "out")
        given = ["day/1.jpg", "night/1.jpg", "day/1.jpg", "../1.jpg", "/root/1.jpg", "1.jpg/2.jpg"]
        placed = []
        for name in given:
            placed.append(places.path(name))
            placed[-1].touch()
        expected = ["day/1.jpg", "night/1.jpg", "day/1_2.jpg", "1.jpg", "root/1.jpg"]
        assert placed == [tmp_path / "out" / name for name in [*expected, "1.jpg_2.jpg"]]


def test_inputs_by_any_name(tmp_path):
    """An input that is a link, and the file that it leads to, are both left alone."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store/1.png").write_text("input")
    (tmp_path / "1.png").symlink_to("store/1.png")
    places = Outputs(tmp_path, [str(tmp_path / "1.png")])
    assert places.path("1.png") == tmp_path / "1_2.png"
    assert places.path("store/1.png") == tmp_path / "store/1_2.png"
    with pytest.raises(UserError, match="1.png is read by this command"):
        refuse_input(tmp_path / "store/1.png", ["missing", tmp_path / "1.png"])
    refuse_input(tmp_path / "new.png", [tmp_path / "1.png"])


def test_a_file_instead_of_the_folder(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(UserError, match="out is no folder to write to"):
        Outputs(tmp_path / "out").path("1.png")
