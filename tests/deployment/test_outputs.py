"""Outputs of an exported file that somebody has changed, or whose weights are damaged."""

import numpy as np
import pytest

from models_mm.deployment.exported import PROVIDERS, THREADS, check_outputs, provider_names
from models_mm.errors import UserError

from .rules import rule


def outputs(**changes) -> dict[str, np.ndarray]:
    """Outputs of two photos for ten rows each, with changes."""
    values = dict(
        boxes=np.zeros((2, 10, 4), np.float32),
        scores=np.zeros((2, 10), np.float32),
        labels=np.ones((2, 10), np.int64),
        masks=np.zeros((2, 10, 28, 28), np.float32),
        count=np.array([10, 0]),
    )
    return values | changes


def test_outputs_that_fit():
    check_outputs(outputs(), 2, rule())
    boxes = np.full((2, 10, 4), np.nan, np.float32)  # of rows that are no objects
    check_outputs(outputs(boxes=boxes, count=np.array([0, 0])), 2, rule())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("boxes", np.zeros((2, 10, 3), np.float32)),
        ("boxes", np.zeros((2, 9, 4), np.float32)),
        ("boxes", np.zeros((1, 10, 4), np.float32)),
        ("scores", np.full((2, 10), "a")),
        ("scores", np.zeros((2, 10), np.int64)),
        ("labels", np.zeros((2, 10), np.float32)),
        ("labels", np.full((2, 10), 2)),
        ("labels", np.full((2, 10), -1)),
        ("masks", np.zeros((2, 10, 28), np.float32)),
        ("masks", np.zeros((2, 10, 0, 0), np.float32)),
        ("count", np.array([11, 0])),
        ("count", np.array([-1, 0])),
        ("count", np.array([[1, 0]])),
    ],
)
def test_outputs_that_do_not_fit(name, value):
    with pytest.raises(UserError, match="outputs do not fit its metadata"):
        check_outputs(outputs(**{name: value}), 2, rule())


@pytest.mark.parametrize("name", ["boxes", "scores"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_objects_that_are_no_numbers(name, value):
    changed = outputs()
    changed[name][0, 3] = value
    with pytest.raises(UserError, match="boxes or scores that are no numbers"):
        check_outputs(changed, 2, rule())


@pytest.mark.parametrize("providers", ["cpu", [], {"cpu"}, [None]])
def test_providers_that_are_no_list_of_names(providers):
    with pytest.raises(UserError, match="providers must be a list, each item a text"):
        provider_names(providers, [*PROVIDERS.values()])


@pytest.mark.parametrize("threads", [0, -1, 10**6, 1.5, "2"])
def test_numbers_of_threads(threads):
    with pytest.raises(UserError, match="threads must be a whole number, 1 to 256"):
        THREADS.check("threads", threads)
