"""The split of labelled images into a part for training and a part for validation."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models_mm.data.formats.labels import DataSet, LabelledImage, Part, labelled_object
from models_mm.data.split import split
from models_mm.errors import UserError

CLASSES = ("apple", "nut", "pear")


def data_set(images: list[str]) -> DataSet:
    """An image per text; its letters are the classes of the objects: a, n, p."""
    names = {name[0]: name for name in CLASSES}
    labelled = [
        LabelledImage(f"{i:05d}.jpg", 9, 9, [labelled_object(names[c], [0, 0, 9, 9]) for c in text])
        for i, text in enumerate(images)
    ]
    return DataSet(Path("here"), "COCO", CLASSES, {"train": Part(Path(), Path(), labelled)})


def names(data: DataSet, part: str) -> list[str]:
    return [image.name for image in data.parts[part].images]


def counts(data: DataSet, part: str) -> Counter:
    """How many images have each class."""
    images = data.parts[part].images
    return Counter(name for image in images for name in {t["class"] for t in image.objects})


images = st.lists(st.sampled_from(["", "a", "n", "p", "an", "ap", "np", "aanp"]), min_size=2)


@settings(max_examples=300, deadline=None, database=None)
@given(images, st.floats(0.01, 0.99), st.integers(0, 9))
def test_every_image_is_in_one_part_and_no_part_is_empty(images, share, seed):
    whole = data_set(images)
    parts = split(whole, share, seed)
    train, val = names(parts, "train"), names(parts, "val")
    assert train and val
    assert sorted(train + val) == names(whole, "train")
    again = split(data_set(images), share, seed)
    assert names(again, "val") == val


@settings(max_examples=200, deadline=None, database=None)
@given(st.lists(st.sampled_from(["a", "n", "p"]), min_size=2), st.integers(0, 9))
def test_each_class_has_its_share(images, seed):
    """A class with one image is in train; with more, in both parts."""
    whole = data_set(images)
    parts = split(whole, seed=seed)
    total, val = counts(whole, "train"), counts(parts, "val")
    for name, number in total.items():
        if number > 1:
            assert 1 <= val[name] < number and abs(val[name] - 0.2 * number) < 2, name
    if any(number > 1 for number in total.values()):
        assert all(val[name] == 0 for name, number in total.items() if number == 1)
    assert abs(len(names(parts, "val")) - 0.2 * len(images)) <= len(CLASSES)


def test_rare_classes_beside_common_ones():
    """Images with several classes: all are in both parts, and the share is kept."""
    parts = split(data_set(["a"] * 80 + ["an"] * 12 + ["anp", "ap"] + [""] * 6))
    train, val = counts(parts, "train"), counts(parts, "val")
    assert set(train) == set(val) == set(CLASSES)
    assert len(names(parts, "val")) == 20
    assert val["nut"] in (2, 3) and val["pear"] == 1
    assert sum(not image.objects for image in parts.parts["val"].images) == 1


def test_another_seed_gives_another_split():
    assert len({tuple(names(split(data_set(["a"] * 40), seed=s), "val")) for s in range(9)}) == 9


def test_a_known_split():
    """It must not change: trainings of today are compared with those of tomorrow."""
    parts = split(data_set(["a", "n", "p", "an", ""] * 4), seed=7)
    assert [name[3:5] for name in names(parts, "val")] == ["11", "15", "17", "18", "19"]


def test_what_cannot_be_split():
    with pytest.raises(UserError, match="here has a single image: two or more can be split"):
        split(data_set(["a"]))
    with pytest.raises(UserError, match="here has a val of 1 images"):
        split(split(data_set(["a", "a"])))
