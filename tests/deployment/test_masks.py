"""Small masks pasted into photos, as mmdet pastes them."""

import numpy as np
import pytest
import torch
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

from models_mm.deployment.masks import paste


@pytest.mark.parametrize(
    "box",
    [
        *((10.3, 5.9, 40.2, 30.7), (0, 0, 60, 45), (-8.5, -3, 20, 90.2), (12.2, 12.2, 12.9, 44)),
        *((20, 10, 20, 30), (59.5, 44.5, 60, 45), (5, 5, 5, 5)),
    ],
)
def test_a_mask_is_that_of_mmdet(box):
    """Within the photo, across its rim; of less than a pixel, and empty."""
    mask = np.random.default_rng(0).random((28, 28), np.float32)
    values, region = _do_paste_mask(
        torch.tensor(mask)[None, None], torch.tensor([box]).float(), 45, 60
    )
    expected = torch.zeros(45, 60)
    expected[region] = values[0]
    expected = expected.numpy()
    ours = paste(mask, np.array(box, np.float32), 45, 60, 0.5)
    assert not ((ours != (expected >= 0.5)) & (abs(expected - 0.5) > 1e-4)).any()


def test_a_mask_beside_the_photo_is_empty():
    mask = np.ones((28, 28), np.float32)
    for box in ((70, 50, 80, 60), (-20, -20, -10, -10)):
        assert not paste(mask, np.array(box, np.float32), 45, 60, 0.5).any()
