"""The soak of data sets in short form."""

import sys

import pytest


@pytest.mark.slow
def test_check_and_reality_agree(run_tool):
    """In a process without threads: those of other tests, OpenCV's, are not there after a fork."""
    done = run_tool(
        *(sys.executable, "-m", "tests.soak", "--data-sets", "40", "--seed", "7"),
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "40 tried" in done.stdout
