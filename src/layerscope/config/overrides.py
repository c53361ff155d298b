"""Read a command line's overrides, and say what is wrong with one."""

import copy
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf

from layerscope.base.errors import UserError
from layerscope.config.problems import as_typed, misplaced_target
from layerscope.config.yaml_files import MAX_DEPTH

OTHER_THAN_TRAINED = ("data", "trainer")  # groups of which a checkpoint can get another option


def key_of(override: str) -> str:
    """Return the key of an override: a.b of `+a.b=1`."""
    return override.partition("=")[0].lstrip("+~")


def value_of(override: str) -> Any:
    """Return the value that an override gives its key."""
    return OverridesParser.create().parse_override(override).value()


def assignment(key: str, value: object) -> str:
    """Return an override whose value is quoted, so that it is taken as it is."""
    quoted = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"{key}='{quoted}'"


def with_home(override: str) -> str:
    """Replace a leading `~`, which Hydra cannot read and a shell leaves as it is."""
    key, _, value = override.partition("=")
    is_home = value == "~" or value.startswith("~/")
    return assignment(key, os.path.expanduser(value)) if is_home else override


def refuse_repeated_keys(overrides: Sequence[str]) -> None:
    """Refuse a key that is given twice: Hydra would take the last one and say nothing."""
    for key, count in Counter(key_of(override) for override in overrides).items():
        if count > 1:
            raise UserError(f"{key} is given {count} times: give it once")


def parsed(overrides: Sequence[str]) -> list[Override]:
    """Read overrides as Hydra does.

    Raises:
        UserError: it cannot, or there is no key.
    """
    return [_parsed(override) for override in overrides]


def _parsed(override: str) -> Override:
    try:
        result = OverridesParser.create().parse_override(override)
    except HydraException as error:
        raise UserError(_unread(override, str(error))) from error
    except ValueError as error:  # an integer that Python cannot hold
        raise UserError(f"{as_typed(override)} cannot be read: {error}") from error
    except RecursionError as error:
        raise UserError(_too_deep(override)) from error
    if not result.key_or_group:
        raise UserError(f"{override} names no key: write KEY=VALUE")
    if is_deeper(result.value(), MAX_DEPTH):
        raise UserError(_too_deep(override))
    return result


def is_deeper(value: Any, levels: int) -> bool:
    """Tell whether more lists or dictionaries than `levels` stand in one another."""
    inner = [value]
    for _ in range(levels + 1):
        inner = [member for v in inner if isinstance(v, list | dict) for member in _members(v)]
    return bool(inner)


def _members(value: list[Any] | dict[Any, Any]) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value


def _too_deep(override: str) -> str:
    return f"{as_typed(override)} nests more than {MAX_DEPTH} levels deep: flatten it"


def _unread(override: str, problem: str) -> str:
    """Say why an override cannot be read; Hydra's own words are those of its grammar."""
    key, equals, value = override.partition("=")
    if not equals:
        return f"'{override}' is no override: write KEY=VALUE"
    if "while evaluating" in problem:
        return f"{override}: {problem}: quote the value if it is a text, {key}='...'"
    if key != key.strip():
        return f"{override} cannot be read: leave out the spaces around ="
    quoted = "..." if "'" in value else value
    return (
        f"{override} cannot be read: close each bracket and quote, or quote the value, "
        f"\"{key}='{quoted}'\""
    )


def no_sweep(override: Override) -> str:
    """Return the message for several values where one is meant."""
    key, _, value = str(override.input_line).partition("=")
    if not override.is_choice_sweep() or "(" in value:
        return f"{key}={value} is a sweep: train makes one with -m; else give one value"
    return (
        f"{key}={value} is a sweep, which train makes with -m; write {key}=[{value}] for a "
        f"list, \"{key}='{value}'\" for a text"
    )


def unknown_key(
    key: str, known: Sequence[str], where: str = "--cfg job lists the keys there are"
) -> str:
    """Return the message for a key that does not exist: the nearest one, or where all stand."""
    misplaced = misplaced_target(key)
    if misplaced:
        return misplaced
    if key in known:
        return f"{key} is no group that this command has options of: leave it out"
    parent, _, name = key.rpartition(".")
    of_parent = {k.removeprefix(f"{parent}."): k for k in known if k.rpartition(".")[0] == parent}
    of_name = [other for other in known if other.rpartition(".")[2] == name]
    close = [of_parent[k] for k in get_close_matches(name, of_parent, n=1)]
    if not close and "_target_" in of_parent:
        return f"{key} is not a key of ours: write +{key}=... to pass it to your own class"
    close = close or of_name
    if close or parent not in known:
        close = close or get_close_matches(key, known, n=1)
    if close:
        return f"{key} is not a key: did you mean {close[0]}?"
    return f"{key} is not a key: {where}"


def keys_of(values: dict[str, Any], prefix: str = "") -> list[str]:
    """Return all keys, with dots, sections too."""
    names: list[str] = []
    for key, value in values.items():
        names.append(f"{prefix}{key}")
        if isinstance(value, dict):
            names += keys_of(value, f"{prefix}{key}.")
    return names


def override_plain(
    values: dict[str, Any], overrides: Sequence[str], config_dir: Path
) -> dict[str, Any]:
    """Apply overrides, key=value and group=option, to a plain configuration.

    Args:
        config_dir: where the options of groups are.

    Raises:
        UserError: a key or option does not exist, or only Hydra could apply the override.
    """
    changed = copy.deepcopy(values)
    chosen_first = sorted(
        parsed(overrides), key=lambda o: not (config_dir / o.key_or_group).is_dir()
    )
    for override in chosen_first:
        has_package = override.package is not None
        if override.is_sweep_override() or override.is_delete() or has_package:
            raise UserError(f"{override.input_line}: only key=value is understood here")
        if "${" in str(override.value()):
            raise UserError(f"{override.input_line}: write the value itself, without ${{...}}")
        key, value = override.key_or_group, override.value()
        if (config_dir / key).is_dir():
            _choose_option(changed, config_dir, key, as_typed(value))
        else:
            _set(changed, key, value, add=override.is_add())
    missing = sorted(key for key, value in _leaves(changed) if value == "???")
    if missing:
        raise UserError(f"{missing[0]} is missing: give it, {missing[0]}=...")
    return changed


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def choosable(options: Sequence[str]) -> list[str]:
    """Return the options of a group without those that only serve others, which begin with `_`."""
    return [option for option in options if not option.startswith("_")]


def _choose_option(values: dict[str, Any], config_dir: Path, group: str, option: str) -> None:
    if group not in OTHER_THAN_TRAINED:
        raise UserError(
            f"{group}={option}: a checkpoint can get another {' or '.join(OTHER_THAN_TRAINED)}"
        )
    file = config_dir / group / f"{option}.yaml"
    if not file.is_file():
        stems = sorted(path.stem for path in (config_dir / group).glob("*.yaml"))
        options = ", ".join(choosable(stems))
        raise UserError(f"{group}={option} cannot be chosen: options of {group} are {options}")
    section = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(section, dict)
    # A file that builds on another names only what differs: the rest stays the checkpoint's.
    partial_section = section.pop("defaults", None) is not None
    values[group] = {**values[group], **section} if partial_section else section


def _set(values: dict[str, Any], key: str, value: Any, add: bool) -> None:
    *parents, name = key.split(".")
    section = values
    for parent in parents:
        section = section.get(parent) if isinstance(section, dict) else None
    if not isinstance(section, dict) or (name not in section and not add):
        raise UserError(unknown_key(key, keys_of(values), "the run's config.yaml lists them"))
    section[name] = value
