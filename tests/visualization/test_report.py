"""The page of a report: whole, self-contained, and nothing in it but text from data."""

from html.parser import HTMLParser

import numpy as np
import pytest

from models_mm.visualization.curves import curve_drawings
from models_mm.visualization.report import (
    MOST_CLASSES,
    Confusion,
    Report,
    Table,
    confusion_of,
    embedded,
)

EVIL = "</pre><script>alert(1)</script><img src=x onerror='alert(2)'>\"&{{ 7 * 7 }}"
VOID = {"meta", "img", "br", "path", "use"}


class Page(HTMLParser):
    """The tags, attributes and text of a page; each tag is closed in its order."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = set(), [], "", []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        self.open += [] if tag in VOID else [tag]

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_text_from_data_stays_text():
    train = {"loss": [(0.5, 2.0), (1.0, 1.0)], "lr": [(0.5, 0.1), (1.0, 0.05)]}
    curves = curve_drawings((train, {f"bbox_mAP:{EVIL}$x^{{$mAP": [(1, 0.3)]}))
    picture = embedded(np.zeros((30, 20, 3), np.uint8), EVIL, EVIL)
    report = Report(
        *(EVIL, EVIL, [(EVIL, EVIL)], [EVIL], curves, [Table(EVIL, [EVIL], [[EVIL]])]),
        *(Confusion([EVIL], [[(3, 0.5)]], EVIL), 0.3, [picture], [picture], [(EVIL, EVIL)], [EVIL]),
        *([(EVIL, EVIL)], EVIL),
    )
    html = report.html()
    page = Page(html)
    assert not page.tags & {"script", "link", "iframe", "object", "base", "form"}
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert all(v.startswith(("data:image/jpeg;base64,", "#")) for v in sources(page))
    assert page.text.count(EVIL) >= 18 and "49" not in page.text
    assert "default-src 'none'" in html and "prefers-color-scheme: dark" in html
    assert "<h2>Worst images" in html and "currentColor" in html


def sources(page: Page) -> list[str]:
    """What the page refers to."""
    names = ("src", "href", "xlink:href", "srcset", "poster", "data", "action")
    return [value for name, value in page.attributes if name in names]


def test_sections_without_content_are_left_out():
    html = Report("run", "a detector").html()
    assert "Worst images" not in html and "Not in this report" not in html
    assert "the training ran in one piece" in html
    Page(html)


def test_pictures_become_smaller():
    small = embedded(np.zeros((30, 20, 3), np.uint8), "1.jpg")
    large = embedded(np.zeros((3000, 2000, 3), np.uint8), "1.jpg")
    assert small.source.startswith("data:image/jpeg;base64,/9j/") and len(large.source) < 40_000


@pytest.mark.parametrize("number", [3, MOST_CLASSES + 5])
def test_the_confusion_matrix_has_the_classes_with_most_errors(number):
    counts = np.diag(np.arange(number + 1.0))
    counts[1, 2] = 6
    counts[-1, -1] = 0
    names = tuple(f"class {i}" for i in range(number))
    found = confusion_of(counts, names)
    assert len(found.names) == len(found.rows) == min(number, MOST_CLASSES) + 1
    row, column = found.names.index("class 1"), found.names.index("class 2")
    assert found.rows[row][column] == (6, pytest.approx(6 / 7))
    assert found.names[-1] == "background" and bool(found.note) == (number > MOST_CLASSES)
