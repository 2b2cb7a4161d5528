"""What several tests of reports share."""

import pytest

from tests.reporting.page_cases import World, make_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A tiny data set and the models that were scored on it; nobody changes its files."""
    return make_world(tmp_path_factory.mktemp("world"))
