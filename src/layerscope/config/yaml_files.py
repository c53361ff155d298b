"""Read YAML that may come from anywhere: plain values, and no more than a person writes."""

from pathlib import Path
from typing import Any

import yaml

# Private: only OmegaConf's own loader knows what it takes for a number, and OmegaConf.load, which
# is public, uses it without bounds.
from omegaconf._utils import get_yaml_loader
from yaml.constructor import ConstructorError

from layerscope.base.errors import UserError

MAX_BYTES = 2**20
MAX_VALUES = 10_000
MAX_DEPTH = 40


def load_yaml(path: Path) -> Any:
    """Return the file's values, with OmegaConf's idea of what is a number.

    Raises:
        UserError: it is not YAML, or names a type, or holds, or stands for, too much.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise UserError(f"{path} has more than {MAX_BYTES:,} bytes: no configuration has as many")
    try:
        return yaml.load(content.decode("utf-8-sig"), _BoundedLoader)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: save it as such") from error
    except yaml.YAMLError as error:
        raise UserError(_in_one_line(path, error)) from error
    except RecursionError as error:
        raise UserError(f"{path} nests more than {MAX_DEPTH} levels deep: flatten it") from error
    except (ValueError, TypeError) as error:  # of a scalar or key that Python cannot hold
        raise UserError(f"{path} is no YAML that can be read: {error}") from error


class _BoundedLoader(get_yaml_loader()):
    """Counts values while they are made; an alias counts as all that it stands for."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._num_values = 0
        self._sizes: dict[int, int] = {}  # values below a node, by its identity

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """See yaml.composer."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            node = super().compose_node(parent, index)
            if id(node) not in self._sizes:  # not whole yet: it would hold itself
                raise ConstructorError(None, None, "an alias stands for what it is in", mark)
            self._count(self._sizes[id(node)], mark)
            return node
        self._depth += 1
        before, mark = self._num_values, self.peek_event().start_mark
        self._count(1, mark)
        if self._depth > MAX_DEPTH:
            raise ConstructorError(None, None, f"more than {MAX_DEPTH} levels deep", mark)
        node = super().compose_node(parent, index)
        self._sizes[id(node)] = self._num_values - before
        self._depth -= 1
        return node

    def _count(self, more: int, mark: yaml.Mark) -> None:
        self._num_values += more
        if self._num_values > MAX_VALUES:
            raise ConstructorError(None, None, f"more than {MAX_VALUES:,} values", mark)


def _in_one_line(path: Path, error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    mark = getattr(error, "problem_mark", None)
    where = "" if mark is None else f", line {mark.line + 1}"
    if "'\\t'" in problem:
        problem = "a tab, which YAML does not take: indent with spaces"
    return f"{path}{where}: {' '.join(str(problem).split())}"
