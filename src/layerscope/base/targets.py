"""Classes and functions of the user's own, named as `module.Class`.

Only what the user names himself is imported: on the command line, or in a call. A file may be a
stranger's, so what it names never is.
"""

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from layerscope.base.errors import Interrupted, NonFiniteLoss, RunFailed, Terminated, UserError

# What the command line itself says, by key: {"model._target_": "mynet.MyNet"}.
Targets = Mapping[str, Any]
NO_TARGETS: Targets = MappingProxyType({})


def target_of(targets: Targets, key: str = "model._target_") -> str | None:
    """Return the class that the user named; None where he named none."""
    return None if key not in targets else str(targets[key])


def typed_target(targets: Targets, key: str, named: str) -> str:
    """Return the class that the user named.

    Args:
        named: what the configuration names, which may be a file's, for the message.

    Raises:
        UserError: the user named none.
    """
    target = target_of(targets, key)
    if target is None:
        raise UserError(f"{_untrusted(key, named)}: type it yourself, {key}={named}")
    return target


def check_typed_list(targets: Targets, key: str, named: Iterable[str], mend: str) -> None:
    """Refuse a class of a list that the user did not type.

    Args:
        key: of the list, whose entries have a `_target_` each.
        named: what the configuration names, which may be a file's.
        mend: ends the message.

    Raises:
        UserError: names the first such class.
    """
    typed = targets.get(key)
    entries = typed if isinstance(typed, list) else []
    known = {str(entry.get("_target_")) for entry in entries if isinstance(entry, dict)}
    for name in named:
        if name not in known:
            raise UserError(f"{_untrusted(key, name)}: {mend}")


def _untrusted(key: str, named: str) -> str:
    return f"{key} names {named} in a file, and a class is never taken from one"


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


def accepted(
    target: str, found: Callable[..., Any], section: str, offered: Mapping[str, Any]
) -> dict[str, Any]:
    """Return those of the offered arguments that the class or function has parameters for.

    Raises:
        UserError: nobody can tell which parameters it has.
    """
    try:
        parameters = inspect.signature(found).parameters
    except (TypeError, ValueError) as error:
        raise _cannot_be_called(target, section, error) from error
    return {name: value for name, value in offered.items() if name in parameters}


def call_target(
    target: str, found: Callable[..., Any], section: str, *arguments: Any, **keys: Any
) -> Any:
    """Return what the user's class or function makes of these arguments.

    Args:
        target: its name, for messages.
        section: of the configuration, that the keys stand in.

    Raises:
        UserError: it does not take them, or fails.
    """
    check_call(target, found, section, *arguments, **keys)
    try:
        return found(*arguments, **keys)
    except (Exception, SystemExit) as error:  # the user's own code may raise anything
        raise UserError(f"{target} cannot be built: {error}") from error


def check_call(
    target: str, found: Callable[..., Any], section: str, *arguments: Any, **keys: Any
) -> None:
    """Refuse arguments that the user's class or function does not take; see `call_target`."""
    try:
        inspect.signature(found).bind(*arguments, **keys)
    except (TypeError, ValueError) as error:
        raise _cannot_be_called(target, section, error) from error


def _cannot_be_called(target: str, section: str, error: Exception) -> UserError:
    missing = re.fullmatch("missing a required argument: '(.+)'", str(error))
    mend = f": give +{section}.{missing[1]}=..." if missing and "." not in section else ""
    return UserError(f"{target} cannot be called with the keys under {section}: {error}{mend}")


@contextmanager
def own_code(target: str, doing: str) -> Iterator[None]:
    """Say in one line that the user's own class failed, and in what.

    Raises:
        RunFailed: anything was raised within this that is no message of ours.
    """
    try:
        yield
    except (UserError, RunFailed, NonFiniteLoss, Terminated, Interrupted):
        raise
    except (Exception, SystemExit) as error:  # the user's own code may raise anything
        raise RunFailed(f"{target} failed in {doing}: {type(error).__name__}: {error}") from error
