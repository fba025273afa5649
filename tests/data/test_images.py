"""Reading images: each kind of file is read, or named in one line; nothing hangs."""

import cv2
import numpy as np
import pytest

from models_mm.data.images import read_image
from models_mm.errors import UserError

from ..soak.mutations import PICTURES, with_unlink

READ = {
    *("noise within", "more behind", "PNG", "PNG of 16 bits", "grey", "transparent", "one pixel"),
    *("another size", "BMP", "CMYK", "palette", "WebP", "TIFF", "turned", "animated"),
}
MAY = {"animated"}  # older OpenCV does not read GIF


@pytest.mark.parametrize("kind", PICTURES)
def test_read_or_named(tmp_path, kind):
    file = tmp_path / "1.jpg"
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    assert cv2.imwrite(str(file), pixels)
    with_unlink(file, PICTURES[kind], pixels)
    try:
        found = read_image(file)
    except UserError as error:
        assert kind not in READ - MAY, error
        assert str(file) in str(error) and len(str(error).splitlines()) == 1
    else:
        assert kind in READ and found.ndim == 3 and found.dtype == np.uint8
        if kind == "turned":
            assert found.shape == (64, 48, 3)
