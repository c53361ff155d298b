"""Configurations from Hydra's files and a command line's overrides. Makes nothing on the disk."""

import copy
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

from hydra._internal import config_loader_impl
from hydra._internal.config_repository import CachingConfigRepository, IConfigRepository
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.hydra import Hydra
from hydra._internal.sources_registry import SourcesRegistry
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.base import Container
from omegaconf.errors import OmegaConfBaseException

from layerscope.base.errors import UserError
from layerscope.config.hydra_section import check_hydra_section, check_places, interpolations_named
from layerscope.config.overrides import (
    key_of,
    keys_of,
    no_sweep,
    parsed,
    refuse_repeated_keys,
    unknown_key,
)
from layerscope.config.schema import as_typed, local_path
from layerscope.config.yaml_files import load_yaml

if not OmegaConf.has_resolver("pid"):
    OmegaConf.register_new_resolver("pid", os.getpid)

Values = dict[str, Any]

MAX_JOBS = 10_000  # of a sweep
MAX_INTERPOLATIONS = 1_000  # resolved, of one configuration
MAX_FILES = 500  # that one configuration is composed of; a run's are some sixty


@contextmanager
def open_hydra(name: str, config_dir: Path, extra_dir: str | None = None) -> Iterator[Hydra]:
    """Hydra over the project's configurations and, before them, the user's folder."""
    Plugins.instance()  # which registers Hydra's own reader of files, if it has not yet
    SourcesRegistry.instance().types[_BoundedFiles.scheme()] = _BoundedFiles
    config_loader_impl.CachingConfigRepository = _BoundedRepository  # type: ignore[attr-defined]
    search_path = create_config_search_path(str(config_dir))
    if extra_dir is not None:
        if not os.path.isdir(extra_dir):  # also of a name that no file system takes
            raise UserError(f"--config-dir {extra_dir} is no directory: give one with your files")
        search_path.prepend(
            provider="command-line",
            path=f"file://{Path(extra_dir).resolve()}",
            anchor=SearchPathQuery(provider="schema"),
        )
    try:
        yield Hydra.create_main_hydra2(name, search_path)
    finally:
        GlobalHydra.instance().clear()


def compose(config_dir: Path, name: str, overrides: Sequence[str] = ()) -> Values:
    """The plain configuration that a command line gives."""
    with open_hydra(name, config_dir) as hydra:
        return plain_values(compose_config(hydra, name, overrides))


def compose_config(
    hydra: Hydra, name: str, overrides: Sequence[str], mode: RunMode = RunMode.RUN
) -> DictConfig:
    """With Hydra's own part; a key that does not exist is a UserError that suggests one."""
    for override in parsed(overrides):
        if override.get_key_element() == "hydra.searchpath":
            raise UserError(f"{override.input_line}: not used here, see --config-dir")
        if mode == RunMode.RUN and override.is_sweep_override():
            raise UserError(no_sweep(override))
    try:
        config = hydra.compose_config(name, list(overrides), mode)
    except (UserError, OmegaConfBaseException):
        raise
    except HydraException as error:
        _refuse_no_option(hydra, overrides)
        raise UserError(_not_composed(hydra, name, overrides, error)) from error
    except RecursionError as error:
        raise UserError("the configuration refers to itself: see its defaults lists") from error
    except (ValueError, TypeError, AttributeError, AssertionError, OSError) as error:
        # What Hydra's own code raises for a value of a kind that it has not thought of.
        _refuse_no_option(hydra, overrides)
        raise UserError(f"the configuration cannot be composed: {error}") from error
    _bound_interpolations(config)
    check_hydra_section(config.hydra, mode)
    check_places(config)
    return config


def _not_composed(hydra: Hydra, name: str, overrides: Sequence[str], error: HydraException) -> str:
    """Which override, or which file, and what there is instead."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file is not None:
        return _no_such_file(error.missing_cfg_file, error.options)
    unknown = re.match(r"Could not override '([^']+)'", str(error))
    if unknown is not None:
        keys = {override: key_of(override) for override in overrides}
        choices = [o for o, key in keys.items() if "." not in key and key != unknown[1]]
        return unknown_key(unknown[1], _known_keys(hydra, name, choices))
    of_file = re.match(r"In '(.*)': \w+ raised while composing config:\n(.*)", str(error))
    if of_file is not None:
        return f"{of_file[1]}.yaml: {of_file[2]}: correct it"
    twice = re.match(r"Multiple values for (\S+)\.", str(error))
    if twice is not None:
        return f"{twice[1]} is chosen already: write {twice[1]}=OPTION, without +"
    merged = re.match(r"Error merging override (.*)", str(error), re.DOTALL)
    if merged is not None:
        return f"{merged[1]}: {_first_line(error.__cause__)}: give another value"
    return str(error) or f"the configuration cannot be composed: {error.__cause__}"


def _no_such_file(path: str, options: Sequence[str] | None) -> str:
    group, _, option = path.rpartition("/")
    if options:
        return f"{group}={option} cannot be chosen: options of {group} are {', '.join(options)}"
    return f"there is no configuration {path}: correct its name, or see --config-dir"


def _refuse_no_option(hydra: Hydra, overrides: Sequence[str]) -> None:
    """A group without an option's name."""
    for override in parsed(overrides):
        options = hydra.config_loader.get_group_options(override.key_or_group)
        chosen = override.value()
        names = chosen if isinstance(chosen, list) else [chosen]
        if options and not override.is_delete() and not all(isinstance(n, str) for n in names):
            raise UserError(
                f"{override.input_line} cannot be chosen: options of {override.key_or_group} are "
                + ", ".join(options)
            )


def _first_line(error: BaseException | None) -> str:
    return str(error).split("\n", 1)[0]


def plain_values(config: DictConfig) -> Values:
    """Interpolations resolved, Hydra's own part left out; a value still missing is a UserError."""
    with interpolations_named():
        own = _own(config)
        missing = sorted(OmegaConf.missing_keys(own))
        if missing:
            raise UserError(f"{missing[0]} is missing: give it, {missing[0]}=...")
        return _plain(own)


def path_value(values: Values, key: str) -> Path:
    """Of a key that names a file; a UserError where it does not."""
    value = values[key]
    if not isinstance(value, str):
        raise UserError(f"{key}={as_typed(value)} names no file: give its path, {key}=FILE")
    try:
        return Path(local_path(value))
    except ValueError as error:
        raise UserError(f"{key}={value} {error}") from error


def sweep_jobs(hydra: Hydra, config: DictConfig, overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each job; of one without what is swept, where the sweeper decides later."""
    parser = OverridesParser.create(config_loader=hydra.config_loader)
    if not config.hydra.sweeper._target_.endswith(BasicSweeper.__name__):
        given = parser.parse_overrides(list(overrides))
        return [[str(o.input_line) for o in given if not o.is_sweep_override()]]
    of_files = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    refuse_repeated_keys([*of_files, *overrides])
    given = parser.parse_overrides([*of_files, *overrides])
    at_once = config.hydra.sweeper.max_batch_size
    if at_once is not None and at_once < 1:
        raise UserError(f"hydra.sweeper.max_batch_size={at_once}: must be at least 1, or null")
    try:
        num_jobs = prod(_num_values(override) for override in given)
        if num_jobs > MAX_JOBS:
            raise UserError(f"the sweep has more than {MAX_JOBS:,} jobs: sweep fewer values")
        return [list(job) for job in BasicSweeper.split_arguments(given, None)[0]]
    except UserError:
        raise
    except (ValueError, TypeError) as error:  # of range(0,3,0), say
        raise UserError(f"the sweep cannot be made: {error}") from error


def _num_values(override: Override) -> int:
    """That it sweeps over; counted no further than is needed to see that they are too many."""
    if not override.is_discrete_sweep():
        return 1
    return sum(1 for _ in islice(override.sweep_string_iterator(), MAX_JOBS + 1))


def assignment(key: str, path: Path) -> str:
    """An override, quoted so that any path is taken as it is."""
    quoted = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"{key}='{quoted}'"


class _BoundedFiles(FileConfigSource):
    """Hydra's reader of configuration files, but for what a file may hold."""

    def load_config(self, config_path: str) -> ConfigResult:
        """See hydra.plugins.config_source."""
        path = Path(self.path, self._normalize_file_name(config_path))
        try:
            state = path.stat()
            read = _read_config(path, state.st_mtime_ns, state.st_size, state.st_ino)
        except OSError as error:
            raise ConfigLoadError(f"{path} cannot be read: {error.strerror}") from error
        config, header = copy.deepcopy(read)  # Hydra writes into them
        place = f"{self.scheme()}://{self.path}"
        return ConfigResult(config=config, path=place, provider=self.provider, header=header)


class _BoundedRepository(CachingConfigRepository):
    """Files that name files that name files can be a few lines, and take hours to compose."""

    def __init__(self, delegate: IConfigRepository) -> None:
        super().__init__(delegate)
        self._count = 0

    def load_config(self, config_path: str) -> ConfigResult | None:
        """See hydra._internal.config_repository."""
        self._count += 1
        if self._count > MAX_FILES:
            raise UserError(
                f"the defaults lists name more than {MAX_FILES} files, or one refers to itself: "
                "write values where they name files"
            )
        return super().load_config(config_path)


@lru_cache(maxsize=256)
def _read_config(path: Path, *state: int) -> tuple[DictConfig, dict[str, str | None]]:
    """Its values and its header; each job of a sweep asks for the same files again.

    Args:
        state: of the file, by which a change is noticed.
    """
    values = load_yaml(path)
    if values is not None and not isinstance(values, dict):
        raise UserError(f"{path} holds a {type(values).__name__}: give keys and values")
    _check_what_hydra_uses(values or {}, path)
    with path.open(encoding="utf-8-sig") as file:
        header = ConfigSource._get_header_dict(file.read(512))
    return OmegaConf.create(values or {}), header


def _check_what_hydra_uses(values: dict[Any, Any], path: Path) -> None:
    """Before there is a whole configuration that could be checked."""
    hydras_own = values.get("hydra", {})
    if not isinstance(hydras_own, dict):
        raise UserError(f"{path}: hydra={as_typed(hydras_own)}: give keys and values")
    if hydras_own.get("searchpath"):
        raise UserError(f"{path}: hydra.searchpath is not used here, see --config-dir")


def _bound_interpolations(config: DictConfig) -> None:
    """Values that refer to values that refer to values can be a few lines and fill the memory."""
    count = 0
    resolve = Container.resolve_parse_tree

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count > MAX_INTERPOLATIONS:
            raise _TooMuch
        return resolve(*args, **kwargs)

    Container.resolve_parse_tree = counted
    try:
        for part in (_own(config), config.hydra.run, config.hydra.sweep):
            with suppress(OmegaConfBaseException):  # which is said where the value is used
                OmegaConf.to_container(part, resolve=True)
    except _TooMuch as error:
        raise UserError(
            f"the configuration refers to itself more than {MAX_INTERPOLATIONS:,} times: "
            "write values where it says ${...}"
        ) from error
    finally:
        Container.resolve_parse_tree = resolve


class _TooMuch(BaseException):
    """OmegaConf wraps every Exception."""


def _known_keys(hydra: Hydra, name: str, choices: list[str]) -> list[str]:
    """Of the configuration with these groups chosen; with the default ones if these are wrong."""
    try:
        config = hydra.compose_config(name, choices, RunMode.RUN)
    except HydraException:
        config = hydra.compose_config(name, [], RunMode.RUN)
    return keys_of(_plain(_own(config)))


def _plain(config: DictConfig) -> Values:
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def _own(config: DictConfig) -> DictConfig:
    keys: list[Any] = [key for key in config if key != "hydra"]  # also those that are no text
    return OmegaConf.masked_copy(config, keys)
