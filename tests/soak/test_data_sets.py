"""The soak of data sets in short form."""

import pytest

from .data_sets import soak


@pytest.mark.slow
def test_check_and_reality_agree(tmp_path):
    tally = soak(40, 7, tmp_path)
    assert tally.tried == 40
    assert not tally.failures, "\n".join(tally.failures)
