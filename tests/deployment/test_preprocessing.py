"""Photos resized and put side by side exactly as MMDetection's pipeline does it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import models_mm  # noqa: F401  isort: skip
from mmcv.image import rescale_size
from mmdet.datasets.pipelines import Compose

from models_mm.deployment.description import INTERPOLATIONS
from models_mm.deployment.preprocessing import graph_inputs, resized, resized_size
from models_mm.errors import UserError

from .rules import rule

SIDE = st.integers(1, 5000)


@given(height=SIDE, width=SIDE, scale=st.tuples(SIDE, SIDE))
@settings(max_examples=300, deadline=None)
def test_sizes_are_those_of_mmcv(height, width, scale):
    expected = rescale_size((width, height), scale)[::-1]
    assert resized_size(height, width, rule(scale=scale)) == expected


@given(height=SIDE, width=SIDE, keep=st.booleans())
@settings(max_examples=200, deadline=None)
def test_all_photos_fit_into_a_fixed_shape(height, width, keep):
    size = resized_size(height, width, rule(scale=(1333, 800), shape=(800, 1344), keep_ratio=keep))
    assert size[0] <= 800 and size[1] <= 1344


@pytest.mark.parametrize(
    ("backend", "way"),
    [(backend, way) for backend in INTERPOLATIONS for way in INTERPOLATIONS[backend]],
)
@pytest.mark.parametrize("size", [(96, 128), (37, 20), (200, 31)])
def test_pixels_are_those_of_mmdet(size, backend, way):
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    own = rule(backend=backend, interpolation=way)
    resize = dict(type="Resize", keep_ratio=True, backend=backend, interpolation=way)
    pipeline = Compose([resize])
    expected = pipeline(dict(img=photo, scale=own.scale, img_fields=["img"]))
    assert np.array_equal(resized(photo, own), expected["img"])
    inputs = graph_inputs([photo], own)
    height, width = inputs["image_sizes"][0]
    factors = np.array([width / size[1], height / size[0]] * 2, np.float32)
    assert np.array_equal(expected["scale_factor"], factors)
    assert np.array_equal(inputs["images"][0].transpose(1, 2, 0)[..., ::-1], expected["img"])


def test_photos_of_several_sizes_lie_in_the_upper_left_corner():
    photos = [
        np.full((*size, 3), value, np.uint8) for size, value in [((48, 64), 7), ((64, 16), 9)]
    ]
    inputs = graph_inputs(photos, rule())
    assert inputs["images"].shape == (2, 3, 64, 64) and inputs["images"].dtype == np.uint8
    assert inputs["image_sizes"].tolist() == [[48, 64], [64, 16]]
    assert inputs["original_sizes"].tolist() == [[48, 64], [64, 16]]
    assert (inputs["images"][0, :, :48] == 7).all() and not inputs["images"][0, :, 48:].any()
    assert (inputs["images"][1, ..., :16] == 9).all() and not inputs["images"][1, ..., 16:].any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(scale=(60_000, 60_000)), "cannot resize 64x48 pixels to 60000x45000"),
        (dict(shape=(60_000, 60_000)), "would have 60000x60000 pixels per photo"),
    ],
)
def test_metadata_cannot_ask_for_all_memory(changes, message):
    with pytest.raises(UserError, match=message):
        graph_inputs([np.zeros((48, 64, 3), np.uint8)], rule(**changes))
