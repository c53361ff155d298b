"""What a command line holds beside its overrides, and what --help answers."""

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

# Private: no public parser reads Hydra's flags, and --hydra-help prints this one's.
from hydra._internal.utils import get_args_parser
from pydantic import BaseModel

from layerscope.base.errors import UserError
from layerscope.base.formatting import wrapped
from layerscope.config.compose import Composer
from layerscope.config.keys import (
    EXPERIMENT,
    groups_with_sentences,
    keys_with_sentences,
    place_keys,
)
from layerscope.config.overrides import with_home
from layerscope.config.problems import as_typed

_FLAGS = {
    "-m, --multirun": "Run a sweep: one job for each combination of KEY=A,B.",
    "--cfg job": "Print the whole configuration and make nothing.",
    "--config-dir DIR": "Take configurations from your own folder too.",
    "--info, --hydra-help": "Tell how Hydra composes the configuration, and how it can be told to.",
}
_UNUSED = {
    "config-path": "see --config-dir",
    "experimental-rerun": "give the command of the run's run.json",
    "shell-completion": "leave it out",
}


@dataclass(frozen=True)
class Arguments:
    """A command line."""

    overrides: tuple[str, ...]
    is_sweep: bool
    wants_help: bool
    config_name: str | None
    config_dir: str | None
    shown: Namespace | None  # --cfg, --info or --hydra-help
    parser: ArgumentParser


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Read a command line.

    Raises:
        UserError: it has a flag that does not exist, or is not used here.
    """
    parser = get_args_parser()
    parser.error = _refuse  # argparse would print its usage beside the error
    found = parser.parse_intermixed_args(list(argv))
    for flag, mend in _UNUSED.items():
        if getattr(found, flag.replace("-", "_")):
            raise UserError(f"--{flag} is not used here: {mend}")
    return Arguments(
        tuple(map(with_home, found.overrides)),
        found.multirun,
        found.help,
        found.config_name,
        found.config_dir,
        found if found.cfg or found.info or found.hydra_help else None,
        parser,
    )


def _refuse(message: str) -> NoReturn:
    raise UserError(f"{message}: see --help")


def help_text(
    does: str,
    schema: type[BaseModel],
    composer: Composer,
    overrides: Sequence[str],
    sweeps: bool,
    writes_files: bool,
    width: int,
) -> str:
    """Return the groups and keys of a command, each with its sentence and its value.

    Args:
        does: what the command does, in a sentence or two.
        width: in columns.
    """
    values = composer.shown_values(overrides)
    sentences = groups_with_sentences(schema) | ({"experiment": EXPERIMENT} if sweeps else {})
    groups = {
        f"{group}={' | '.join(options)}": sentence
        for group, sentence in sentences.items()
        if len(options := composer.options(group)) > 1
    }
    keys = {
        f"{key.name}={as_typed(_value_at(values, key.name))}": key.sentence
        for key in keys_with_sentences(schema, values)
    }
    places = {f"{key.name}=DIR": key.sentence for key in place_keys(sweeps)} if writes_files else {}
    flags = {flag: text for flag, text in _FLAGS.items() if sweeps or "--multirun" not in flag}
    return "\n".join(
        [
            wrapped(does, width=width),
            *_section("Groups, GROUP=OPTION", groups, width),
            *_section("Keys, KEY=VALUE, with the values that they have now", keys, width),
            *_section("Where files go", places, width),
            *_section("Flags", flags, width),
        ]
    )


def _value_at(values: Mapping[str, Any], key: str) -> Any:
    value: Any = values
    for part in key.split("."):
        value = value[part]
    return value


def _section(title: str, entries: Mapping[str, str], width: int) -> list[str]:
    indent = " " * 6
    lines = [
        f"{wrapped(f'  {name}', '    ', width)}\n{wrapped(indent + text, indent, width)}"
        for name, text in entries.items()
    ]
    return ["", f"{title}:", *lines] if lines else []
