"""The soak of files in short form."""

import pytest

from .files import soak


@pytest.mark.slow
def test_files(tmp_path):
    tally = soak(150, 1, tmp_path)
    assert tally.tried == 150 and not tally.failures, "\n".join(tally.failures)
