"""The table of faults names tests that exist."""

import re

from .conftest import ROOT


def test_each_row_has_its_test():
    rows = [line for line in (ROOT / "docs/faults.md").read_text().splitlines() if line[:2] == "| "]
    assert len(rows) > 15
    for row in rows[1:]:
        file = None
        named = re.findall(r"`([\w/]*\.py)?(?:::(\w+))?`", row.rsplit("|", 2)[1])
        assert named, row
        for path, test in named:
            file = path or file
            source = (ROOT / "tests" / file).read_text()
            assert not test or f"def {test}(" in source, f"{file} has no {test}"
