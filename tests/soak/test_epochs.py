"""The soak of epochs in short."""

import pytest

from .epochs import soak


@pytest.mark.slow
def test_no_epoch_stands_still(tmp_path):
    tally = soak(90, 0, tmp_path)
    assert not tally.failures and tally.tried == 90
