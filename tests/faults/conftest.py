from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_finish(session):
    """Fork before any test has run: see harness."""
    if session.config.option.collectonly:
        return
    if any(item.path.is_relative_to(HERE) for item in session.items):
        from harness import Forker

        session.config.stash[FORKER] = Forker()


def pytest_unconfigure(config):
    forker = config.stash.get(FORKER, None)
    if forker is not None:
        forker.close()


FORKER = pytest.StashKey()


@pytest.fixture(scope="session")
def forks(request):
    """Call a function in a process that may fork: `forks(function, *arguments)`."""
    return request.config.stash[FORKER]
