"""Who may import what."""

import ast
from functools import cache
from pathlib import Path

from layerscope.commands import main as commands

SOURCE = Path(__file__).parents[2] / "src/layerscope"
# What runs a command; the other files of the room are commands or what commands share.
COMMANDS = tuple(name.replace("-", "_") for name in commands.COMMANDS)


@cache
def parsed(path):
    return ast.parse(path.read_text())


@cache
def imports(path):
    """(module, line) of each import, those inside functions too."""
    found = []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return found


def test_hydra_is_known_in_config_alone():
    outside = [
        f"{path.relative_to(SOURCE)}: {name}"
        for path in SOURCE.rglob("*.py")
        for name, _ in imports(path)
        if name.split(".")[0] in ("hydra", "omegaconf") and path.parent != SOURCE / "config"
    ]
    assert outside == []


def test_a_private_import_of_hydras_has_a_sentence_why():
    for path in (SOURCE / "config").glob("*.py"):
        lines = path.read_text().splitlines()
        for name, number in imports(path):
            is_private = any(part.startswith("_") for part in name.split("."))
            if name.split(".")[0] in ("hydra", "omegaconf") and is_private:
                assert lines[number - 2].startswith("# "), f"{path.name}: {name}"


def test_no_command_borrows_from_another():
    for command in COMMANDS:
        for name, _ in imports(SOURCE / f"commands/{command}.py"):
            room, _, rest = name.removeprefix("layerscope.").partition(".")
            assert not (room == "commands" and rest.split(".")[0] in COMMANDS), name


def test_the_rooms_below_import_nothing_of_commands():
    above = [
        f"{path.relative_to(SOURCE)}: {name}"
        for path in SOURCE.rglob("*.py")
        for name, _ in imports(path)
        if name.startswith("layerscope.commands")
        and path.parent != SOURCE / "commands"
        and path != SOURCE / "__main__.py"
    ]
    assert above == []


def rooms():
    """Which rooms each room imports, those that are imported inside functions too."""
    graph = {}
    for path in SOURCE.rglob("*.py"):
        room, *inside = path.relative_to(SOURCE).parts
        if not inside:
            continue  # the package's own file, which names the homes of the public calls
        needed = graph.setdefault(room, set())
        for name, _ in imports(path):
            first, _, rest = name.partition(".")
            if first == "layerscope" and rest.partition(".")[0] in HOUSE - {room}:
                needed.add(rest.partition(".")[0])
    return graph


HOUSE = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()}


def test_there_are_no_cycles_between_rooms():
    left = rooms()
    while left:
        free = {room for room, needed in left.items() if not needed & left.keys()}
        assert free, f"these need each other: {sorted(left)}"
        for room in free:
            del left[room]


def test_instruments_know_no_theory():
    """An instrument that did could not disagree with it."""
    assert rooms()["measure"] == {"base", "layers"}


def test_the_architecture_names_every_room():
    text = (SOURCE.parents[1] / "docs/architecture.md").read_text()
    told = {line.split("/")[0].strip() for line in text.splitlines() if line.startswith("  ")}
    assert told >= HOUSE


def test_one_word_means_one_thing():
    """No two classes have the same name, an underscore apart; a type's name stands for one type."""
    classes, types = {}, {}
    for path in SOURCE.rglob("*.py"):
        for node in parsed(path).body:
            where = path.relative_to(SOURCE).as_posix()
            if isinstance(node, ast.ClassDef):
                classes.setdefault(node.name.lstrip("_"), []).append(where)
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                name = node.targets[0].id
                if name[0].isupper() and not name.isupper():
                    types.setdefault(name, {}).setdefault(ast.unparse(node.value), where)
    assert len(classes) > 300
    twice = {name: where for name, where in classes.items() if len(where) > 1}
    twice |= {name: [*kinds.values()] for name, kinds in types.items() if len(kinds) > 1}
    both = classes.keys() & types.keys()
    assert twice | {name: [*classes[name], *types[name].values()] for name in both} == {}
