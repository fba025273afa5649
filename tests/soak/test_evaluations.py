"""The soak of evaluations in short form."""

import pytest

from .evaluations import soak


@pytest.mark.slow
def test_random_evaluations_equal_pycocotools(tmp_path):
    tally = soak(600, 1, tmp_path)
    assert not tally.failures
    assert tally.counts["equal to pycocotools"] == 600
