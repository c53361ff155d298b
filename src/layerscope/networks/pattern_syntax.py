"""The grammar of patterns: `Input → (Conv → ReLU → Pool) × 2 → FC`, read into layers and groups.

pattern_layers.py checks names and arguments.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from layerscope.base.errors import MarkedError, UserError

MAX_CHARACTERS = 2_000
MAX_DEPTH = 16  # of nested brackets
MAX_LAYERS = 1_000  # with all repetitions written out
MAX_DIGITS = 9

_CLOSING = {"(": ")", "[": "]"}
_TOKENS = re.compile(
    r"""(?P<space>\s+)
      | (?P<arrow>→|->)
      | (?P<times>[×*]|[xX](?=\s*[0-9]))
      | (?P<number>[0-9]+(?:\.[0-9]+)?)
      | (?P<name>[A-Za-z][A-Za-z0-9_]*)
      | (?P<open>[(\[])
      | (?P<close>[)\]])
      | (?P<comma>,)
      | (?P<equals>=)
      | (?P<end>\Z)""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class TextRange:
    """A range of characters of the pattern, from `start` to before `end`."""

    start: int
    end: int


@dataclass(frozen=True)
class Argument:
    """An argument as written: `5` or `k=5`."""

    name: str | None
    value: str
    place: TextRange


@dataclass(frozen=True)
class WrittenLayer:
    """A layer as written: a name with its arguments."""

    name: str
    arguments: tuple[Argument, ...]
    place: TextRange


@dataclass(frozen=True)
class PatternGroup:
    """Layers and groups in a row, repeated `count` times."""

    members: tuple["WrittenLayer | PatternGroup", ...]
    count: int
    place: TextRange

    @property
    def num_layers(self) -> int:
        """Number of layers with all repetitions, computed without writing them out."""
        each = (m.num_layers if isinstance(m, PatternGroup) else 1 for m in self.members)
        return self.count * sum(each)


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    place: TextRange


def refuse(pattern: str, place: TextRange, problem: str) -> NoReturn:
    """Raise a MarkedError, which shows the problem, the pattern, and carets under the place."""
    raise MarkedError(f"model.pattern: {problem}", pattern, place.start, place.end)


def read_pattern(pattern: str) -> PatternGroup:
    """Parse the pattern into one group.

    Raises:
        UserError: the pattern is too long.
        MarkedError: a part cannot be read, or has too many layers; the error shows its place.
    """
    if len(pattern) > MAX_CHARACTERS:
        raise UserError(
            f"model.pattern has {len(pattern):,} characters: at most {MAX_CHARACTERS:,} are read"
        )
    group = _PatternParser(pattern).whole()
    _refuse_too_many(pattern, group)
    return group


def _refuse_too_many(pattern: str, group: PatternGroup) -> None:
    """Refuse too many layers, at the innermost group that is too large."""
    for member in group.members:
        if isinstance(member, PatternGroup):
            _refuse_too_many(pattern, member)
    if group.num_layers > MAX_LAYERS:
        refuse(
            pattern,
            group.place,
            f"these are {group.num_layers:,} layers, at most {MAX_LAYERS:,} are built: "
            "repeat less often",
        )


class _PatternParser:
    """A recursive-descent parser, which raises every mistake at its place."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._tokens = list(self._split())
        self._next = 0

    def whole(self) -> PatternGroup:
        members = self._sequence(0)
        if self._token.kind == "close":
            self._refuse(f"{self._token.text} closes nothing: remove it, or open it before")
        if self._token.kind != "end":
            self._refuse_missing_arrow()
        return PatternGroup(members, 1, TextRange(0, len(self._pattern)))

    def _split(self) -> Iterator[_Token]:
        position = 0
        while True:
            found = _TOKENS.match(self._pattern, position)
            if found is None:
                place = TextRange(position, position + 1)
                character = self._pattern[position]
                if character in "-—–=>":
                    refuse(self._pattern, place, f"{character} is no arrow: write → or ->")
                refuse(self._pattern, place, f"{character!r} means nothing here: remove it")
            kind, position = str(found.lastgroup), found.end()
            if kind != "space":
                yield _Token(kind, found[0], TextRange(found.start(), found.end()))
            if kind == "end":
                return

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._token
        self._next += 1
        return token

    def _refuse(self, problem: str, place: TextRange | None = None) -> NoReturn:
        refuse(self._pattern, place or self._token.place, problem)

    def _refuse_missing_arrow(self) -> NoReturn:
        self._refuse(f"an arrow is missing before {self._token.text}: write → or ->")

    def _sequence(self, depth: int) -> tuple[WrittenLayer | PatternGroup, ...]:
        members = [self._member(depth)]
        while self._token.kind == "arrow":
            self._take()
            members.append(self._member(depth))
        return tuple(members)

    def _member(self, depth: int) -> WrittenLayer | PatternGroup:
        if self._token.kind == "open":
            return self._group(depth + 1)
        if self._token.kind != "name":
            self._refuse_no_layer(depth)
        layer = self._layer()
        if self._token.kind != "times":
            return layer
        count = self._count()
        return PatternGroup((layer,), count, TextRange(layer.place.start, self._end))

    @property
    def _end(self) -> int:
        """The position after the last token that was read."""
        return self._tokens[self._next - 1].place.end

    def _refuse_no_layer(self, depth: int) -> NoReturn:
        token = self._token
        if token.kind == "close" and depth == 0:
            self._refuse(f"{token.text} closes nothing: remove it, or open it before")
        where = {"arrow": "before this arrow", "end": "at the end"}.get(token.kind)
        if token.kind == "number":
            where = f"before {token.text}: the number follows the layers, as in (Conv → ReLU) × 2"
        self._refuse(f"a layer is missing {where or f'before {token.text}'}")

    def _group(self, depth: int) -> PatternGroup:
        opening = self._take()
        if depth > MAX_DEPTH:
            self._refuse(f"more than {MAX_DEPTH} nested brackets", opening.place)
        members = self._sequence(depth)
        closing = _CLOSING[opening.text]
        if self._token.kind == "end":
            self._refuse(f"{opening.text} is never closed: add {closing}", opening.place)
        if self._token.kind != "close":
            self._refuse_missing_arrow()
        if self._token.text != closing:
            self._refuse(f"{self._token.text} cannot close {opening.text}: write {closing}")
        self._take()
        count = self._count() if self._token.kind == "times" else 1
        return PatternGroup(members, count, TextRange(opening.place.start, self._end))

    def _count(self) -> int:
        times = self._take()
        token = self._token
        if token.kind != "number":
            self._refuse(f"how often? A number must follow {times.text}", times.place)
        count = self._integer(token)
        if count == 0:
            self._refuse("0 times: repeat at least once, or leave this part out")
        self._take()
        return count

    def _integer(self, token: _Token) -> int:
        if "." in token.text:
            self._refuse(f"{token.text} times: give a whole number")
        if len(token.text) > MAX_DIGITS:
            self._refuse(f"{token.text[:MAX_DIGITS]}… is too large")
        return int(token.text)

    def _layer(self) -> WrittenLayer:
        name = self._take()
        arguments: tuple[Argument, ...] = ()
        if self._token.text == "(":
            arguments = self._arguments(name)
        return WrittenLayer(name.text, arguments, TextRange(name.place.start, self._end))

    def _arguments(self, name: _Token) -> tuple[Argument, ...]:
        if self._tokens[self._next + 1].kind in ("open", "arrow", "times") or (
            self._tokens[self._next + 1].kind == "name"
            and self._tokens[self._next + 2].kind != "equals"
        ):
            self._refuse_missing_arrow()  # It opens a group, not arguments.
        opening = self._take()
        arguments: list[Argument] = []
        while self._token.kind != "close":
            if arguments:
                if self._token.kind != "comma":
                    self._refuse_argument(name, opening)
                self._take()
            arguments.append(self._argument(name, opening))
        if self._token.text != ")":
            self._refuse(f"{self._token.text} cannot close (: write )")
        self._take()
        return tuple(arguments)

    def _argument(self, name: _Token, opening: _Token) -> Argument:
        first = self._token
        key = None
        if first.kind == "name":
            key = self._take().text
            if self._token.kind != "equals":
                self._refuse_argument(name, opening)
            self._take()
        if self._token.kind != "number":
            self._refuse_argument(name, opening)
        value = self._token
        if len(value.text) > MAX_DIGITS:
            self._refuse(f"{value.text[:MAX_DIGITS]}… is too large")
        self._take()
        return Argument(key, value.text, TextRange(first.place.start, value.place.end))

    def _refuse_argument(self, name: _Token, opening: _Token) -> NoReturn:
        if self._token.kind in ("end", "arrow"):
            self._refuse("( is never closed: add )", opening.place)
        self._refuse(
            f"{self._token.text} is no argument of {name.text}: write {name.text}(5) or "
            f"{name.text}(k=5, s=1)"
        )
