"""Packages that are used where they are installed, and are no dependency."""

from importlib.util import find_spec


def is_installed(package: str) -> bool:
    """Tell whether a package can be imported, without importing it."""
    return find_spec(package) is not None
