"""mmcv 1.7's size of a resized image: a side that is rounded to 0 pixels is 1 pixel long.

Otherwise an image of more than two thousand times as many columns as rows ends in an error of
OpenCV.
"""

import functools

from mmcv.image import geometric

from models_mm.mmdet2.compat.replace import replace_everywhere

_scale_size = geometric._scale_size


@functools.wraps(_scale_size)
def scaled_size(size, scale):
    """Width and height times a factor, or a pair of factors."""
    return tuple(max(side, 1) for side in _scale_size(size, scale))


def apply() -> None:
    replace_everywhere(_scale_size, scaled_size)
