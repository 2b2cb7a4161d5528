"""Which rule of the field of view is a set's own."""

import inspect
from importlib import import_module

import pytest

from spineseg.data.sources import CLASSES
from spineseg.reporting.standing import COUNTED_SOURCES


@pytest.mark.parametrize("name", CLASSES)
def test_a_report_knows_each_sources_default(name: str) -> None:
    kind = getattr(import_module(CLASSES[name]), name)
    edge = inspect.signature(kind).parameters.get("edge")
    default = "ignore" if edge is None else edge.default
    assert (default == "count") == (getattr(kind, "name", "folder") in COUNTED_SOURCES)
