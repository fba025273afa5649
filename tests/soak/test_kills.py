"""The soak of kills in short form."""

import pytest

from .kills import soak


@pytest.mark.slow
def test_kills(tmp_path):
    """Ten kills of two runs, one of which `dist_train.sh` starts."""
    tally = soak(10, 0, tmp_path)
    assert not tally.failures, "\n".join(tally.failures)
    assert tally.counts["kills"] == 10
