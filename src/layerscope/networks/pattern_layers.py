"""The layers that a pattern can name, and a pattern with its repetitions written out."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType

from torch import nn

from layerscope.networks.pattern_syntax import (
    Argument,
    PatternGroup,
    TextRange,
    WrittenLayer,
    read_pattern,
    refuse,
)

IntOrFloat = int | float

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = MappingProxyType(
    {
        "ReLU": nn.ReLU,
        "ReLU6": nn.ReLU6,
        "LeakyReLU": nn.LeakyReLU,
        "ELU": nn.ELU,
        "GELU": nn.GELU,
        "SiLU": nn.SiLU,
        "Sigmoid": nn.Sigmoid,
        "Tanh": nn.Tanh,
        "Hardswish": nn.Hardswish,
        "Hardsigmoid": nn.Hardsigmoid,
    }
)
POOLS = ("Pool", "AvgPool")
_WINDOW = {"k": ("kernel", "kernel_size"), "s": ("stride",), "p": ("padding", "pad")}
# The arguments of each kind in order, each with its further names.
_PARAMETERS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "Input": {},
    "Conv": {"channels": ("c", "filters", "out_channels"), **_WINDOW},
    "Pool": _WINDOW,
    "AvgPool": _WINDOW,
    "GAP": {},
    "BN": {},
    "Dropout": {"rate": ("p",)},
    "Flatten": {},
    "FC": {"units": ("n", "out_features")},
    **{name: {} for name in ACTIVATIONS},
}
_ALIASES = {
    "conv2d": "Conv",
    "maxpool": "Pool",
    "maxpool2d": "Pool",
    "averagepool": "AvgPool",
    "avgpool2d": "AvgPool",
    "globalavgpool": "GAP",
    "globalaveragepool": "GAP",
    "batchnorm": "BN",
    "batchnorm2d": "BN",
    "linear": "FC",
    "dense": "FC",
    "swish": "SiLU",
}
_KINDS = {**{kind.lower(): kind for kind in _PARAMETERS}, **_ALIASES}
_MAY_BE_ZERO = ("p", "rate")


@dataclass(frozen=True)
class PatternLayer:
    """One layer of the pattern with its repetitions written out.

    Args:
        kind: `Conv`, `Pool`, `ReLU`, ...
        arguments: the given arguments, by their first name.
        place, argument_places: of the layer and of each argument in the pattern.
        repetition: number of this repetition, from 1, and the number of repetitions.
        section: the outermost group with a Conv, and its repetition; None outside of such groups.
    """

    kind: str
    arguments: Mapping[str, IntOrFloat]
    place: TextRange
    argument_places: Mapping[str, TextRange]
    repetition: tuple[int, int]
    section: tuple[int, int] | None = None


def pattern_layers(pattern: str) -> tuple[PatternLayer, ...]:
    """Return the layers of a pattern in order, with groups repeated.

    Raises:
        MarkedError: a layer or an argument is not known, or the pattern breaks the grammar.
    """
    group = read_pattern(pattern)
    known = {written.place: _known(pattern, written) for written in _written(group)}
    placed = [
        (layer, section)
        for index, member in enumerate(group.members)
        for layer, section in _of_member(member, index, known)
    ]
    totals = Counter(written.place for written, _ in placed)
    counts: Counter[TextRange] = Counter()
    layers: list[PatternLayer] = []
    for written, section in placed:
        kind, arguments, places = known[written.place]
        counts[written.place] += 1
        repetition = (counts[written.place], totals[written.place])
        layers.append(PatternLayer(kind, arguments, written.place, places, repetition, section))
    return tuple(layers)


_Known = tuple[str, Mapping[str, IntOrFloat], Mapping[str, TextRange]]


def _of_member(
    member: WrittenLayer | PatternGroup, index: int, known: Mapping[TextRange, _Known]
) -> Iterator[tuple[WrittenLayer, tuple[int, int] | None]]:
    """Yield the layers of one outermost part, each with its section."""
    if isinstance(member, WrittenLayer):
        yield member, None
        return
    has_conv = any(known[written.place][0] == "Conv" for written in _written(member))
    for repetition in range(member.count):
        for part in member.members:
            for written in _repeated(part):
                yield written, (index, repetition) if has_conv else None


def _repeated(member: WrittenLayer | PatternGroup) -> Iterator[WrittenLayer]:
    if isinstance(member, WrittenLayer):
        yield member
        return
    for _ in range(member.count):
        for part in member.members:
            yield from _repeated(part)


def _written(group: PatternGroup) -> Iterator[WrittenLayer]:
    """Yield each layer of a group once."""
    for member in group.members:
        if isinstance(member, WrittenLayer):
            yield member
        else:
            yield from _written(member)


def _known(pattern: str, layer: WrittenLayer) -> _Known:
    kind = _KINDS.get(_plain(layer.name))
    if kind is None:
        start = layer.place.start
        place = TextRange(start, start + len(layer.name))
        refuse(pattern, place, f"{layer.name} is no layer: {_suggestion(layer.name)}")
    arguments: dict[str, IntOrFloat] = {}
    places: dict[str, TextRange] = {}
    for position, argument in enumerate(layer.arguments):
        name = _parameter(pattern, kind, position, argument)
        if name in arguments:
            refuse(pattern, argument.place, f"{name} is given twice: give it once")
        arguments[name] = _value(pattern, name, argument)
        places[name] = argument.place
    return kind, arguments, places


def _plain(name: str) -> str:
    return name.lower().replace("_", "")


def _suggestion(name: str) -> str:
    if _plain(name) in ("softmax", "logsoftmax"):
        return "leave it out, the loss takes the scores of the last FC as they are"
    close = get_close_matches(_plain(name), _KINDS, n=1)
    if close:
        return f"did you mean {_KINDS[close[0]]}?"
    return "choose from " + ", ".join(_PARAMETERS)


def _parameter(pattern: str, kind: str, position: int, argument: Argument) -> str:
    """Return the first name of an argument; refuse one that the layer does not take."""
    parameters = _PARAMETERS[kind]
    if argument.name is None:
        matching = list(parameters)[position : position + 1]
    else:
        given = argument.name.lower()
        matching = [name for name, others in parameters.items() if given in (name, *others)]
    if not matching:
        takes = f"takes {', '.join(parameters)}" if parameters else "takes no arguments"
        what = argument.name or argument.value
        refuse(pattern, argument.place, f"{what} is no argument of {kind}, which {takes}")
    return matching[0]


def _value(pattern: str, name: str, argument: Argument) -> IntOrFloat:
    if name == "rate":
        rate = float(argument.value)
        if rate >= 1:
            refuse(pattern, argument.place, f"{argument.value} drops everything: give less than 1")
        return rate
    if "." in argument.value:
        refuse(pattern, argument.place, f"{name}={argument.value}: give a whole number")
    value = int(argument.value)
    if value == 0 and name not in _MAY_BE_ZERO:
        refuse(pattern, argument.place, f"{name}=0: give at least 1")
    return value
