"""All wrong command lines of the soak."""

import pytest

from .command_lines import lines, soak


@pytest.mark.slow
def test_wrong_command_lines(tmp_path):
    tally = soak(len(lines()), 0, tmp_path)
    assert not tally.failures, "\n".join(tally.failures)
