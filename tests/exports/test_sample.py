"""One of the detectors that ``make test-export`` exports and compares."""

import pytest

from models_mm.mmdet2.parity import Tolerance

from .detectors import export_random


@pytest.mark.slow
def test_a_published_detector(tmp_path):
    pytest.importorskip("onnxscript")
    found = export_random("mask_rcnn_recnext_m3_fpn_1x_coco", tmp_path)
    assert len(found) == 4 and all(photo.objects for photo in found)
    assert all(photo.within(Tolerance()) for photo in found), found
