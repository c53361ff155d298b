"""Classes and functions of the user's own, named as `module.Class`.

Only what the user names himself is imported: on the command line, or in a call. A file may be a
stranger's, so what it names never is.
"""

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from layerscope.base.errors import UserError

# What the command line itself says, by key: {"model._target_": "mynet.MyNet"}.
Targets = Mapping[str, Any]


def target_of(targets: Targets, key: str = "model._target_") -> str | None:
    """Return the class that the user named; None where he named none."""
    return None if key not in targets else str(targets[key])


def import_target(key: str, target: str) -> Callable[..., Any]:
    """Import what the user named, from an installed package or the current directory.

    Args:
        key: that names it, for messages.

    Raises:
        UserError: it cannot be imported, or cannot be called.
    """
    module_name, _, name = target.rpartition(".")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # sys.path has the script's folder, not the user's.
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (Exception, SystemExit) as error:  # the user's own module may raise anything
        raise UserError(
            f"{key}={target} cannot be imported ({error}): give module.Class, "
            "with the module installed or in the current directory"
        ) from error
    if not callable(found):
        raise UserError(f"{key}={target} is not a class")
    return found
