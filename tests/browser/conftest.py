import pytest
from chromium import Chromium, find_chromium


def pytest_collection_modifyitems(items):
    """Without a browser these tests are skipped, and pytest's summary says so."""
    if find_chromium() is None:
        for item in items:
            if item.get_closest_marker("browser"):
                item.add_marker(pytest.mark.skip(reason="no Chromium"))


@pytest.fixture(scope="module")
def browser():
    with Chromium(find_chromium()) as browser:
        yield browser
