"""The keys of a schema, each with its sentence: what --help and docs/reference.md print."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from layerscope.base.errors import UserError
from layerscope.config.overrides import key_of, unknown_key
from layerscope.config.schema import PathsConfig

EXPERIMENT = (
    "Recipe on top of the others; debug runs one batch of each kind, cifar_cnn_best trains longer."
)
_LISTED = "the run's config.yaml lists them"
_HYDRAS_OWN = {
    "hydra.run.dir": (
        "Directory that every file goes into; by default a new one under paths.outputs, named by "
        "time and process."
    ),
    "hydra.sweep.dir": "The same of a sweep, with a folder for each job.",
}


@dataclass(frozen=True)
class Key:
    """A key as a user types it.

    Args:
        variant: the network, data set, ... that has it, where not all of the group do.
    """

    name: str
    sentence: str
    variant: str = ""


def keys_with_sentences(
    schema: type[BaseModel], values: Mapping[str, Any] | None = None
) -> list[Key]:
    """Return the keys of a schema in its order, sections' keys with dots, groups without their own.

    Args:
        values: a configuration, of whose networks, data sets, ... alone the keys are returned.
    """
    return list(_keys(schema, values, "", ""))


def groups_with_sentences(schema: type[BaseModel]) -> dict[str, str]:
    """Return the sentence of each topmost section."""
    fields = schema.model_fields
    return {name: _sentence(field) for name, field in fields.items() if _sections(field.annotation)}


def refuse_unknown_keys(overrides: Sequence[str], schema: type[BaseModel]) -> None:
    """Refuse overrides of keys that no configuration of the schema has.

    A network's keys are left to whoever knows which network it is.

    Raises:
        UserError: the first such key, and the nearest one that there is.
    """
    known = [key.name for key in keys_with_sentences(schema)]
    sections = {name.rpartition(".")[0] for name in known}
    for override in overrides:
        key = key_of(override)
        if key.partition(".")[0] == "model" or override.startswith("+"):
            continue
        parts = key.partition("@")[0].split(".")
        beginnings = [".".join(parts[: count + 1]) for count in range(len(parts))]
        if key not in sections and not set(beginnings) & set(known):
            raise UserError(unknown_key(key, [*sections, *known], _LISTED))


def place_keys(sweeps: bool) -> list[Key]:
    """Return the keys that say where files go."""
    places = _HYDRAS_OWN if sweeps else {"hydra.run.dir": _HYDRAS_OWN["hydra.run.dir"]}
    ours = _keys(PathsConfig, None, "paths.", "")
    return [*ours, *(Key(name, sentence) for name, sentence in places.items())]


def _keys(
    schema: type[BaseModel], values: Mapping[str, Any] | None, prefix: str, variant: str
) -> Iterator[Key]:
    for own_name, field in schema.model_fields.items():
        name = field.alias or own_name
        sections = _sections(field.annotation)
        for section in sections:
            inner = None if values is None else values.get(name)
            found = _variant(section, field) if len(sections) > 1 else ()
            if (
                isinstance(inner, Mapping)
                and found
                and inner[str(field.discriminator)] not in found
            ):
                continue
            yield from _keys(section, inner, f"{prefix}{name}.", "/".join(found))
        if not sections and field.description is not None:
            yield Key(f"{prefix}{name}", field.description, variant)


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """Return the schema, or the schemas of a union, that a field holds."""
    candidates = get_args(annotation) or (annotation,)
    return [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]


def _variant(section: type[BaseModel], field: FieldInfo) -> tuple[str, ...]:
    """Return the names by which a configuration says that this section is meant."""
    return get_args(section.model_fields[str(field.discriminator)].annotation)


def _sentence(field: FieldInfo) -> str:
    assert field.description is not None, "a section without a sentence"
    return field.description
