import os
from pathlib import Path

import pytest

from layerscope.commands.main import COMMANDS
from layerscope.commands.runner import run_command
from layerscope.config.compose import compose
from layerscope.config.keys import (
    EXPERIMENT,
    groups_with_sentences,
    keys_with_sentences,
    place_keys,
)

NEEDED = {
    "compare": ["a=x", "b=y"],
    "evaluate": ["ckpt_path=a"],
    "predict": ["ckpt_path=a", "image=b"],
}
GROUPS = ("model", "data", "optimizer", "scheduler", "loss", "trainer", "logger")
REFERENCE = Path(__file__).parents[3] / "docs/reference.md"
DISCRIMINATORS = ("model.family", *(f"{group}.name" for group in GROUPS))


def leaves(values, prefix=""):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def options(configs, group):
    return sorted(path.stem for path in (configs / group).glob("[!_]*.yaml"))


def _needed(group):
    """What the options have no default for."""
    return {"custom": [f"{group}._target_=a.B"], "imagefolder": ["data.dir=a"]}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_key_of_a_configuration_has_a_sentence(name, configs):
    command = COMMANDS[name]
    of_groups = [
        [f"{group}={option}", *_needed(group).get(option, ())]
        for group in GROUPS
        if group in command.schema.model_fields
        for option in options(configs, group)
    ]
    for overrides in ([], *of_groups):
        values = compose(configs, command.name, [*NEEDED.get(name, ()), *overrides])
        own = {k: v for k, v in values.items() if k not in ("paths", *command.unused)}
        told = {key.name: key.sentence for key in keys_with_sentences(command.schema, own)}
        with_name = "model.name" if own.get("model", {}).get("family") == "torchvision" else ""
        names = {key for key in leaves(own) if key == with_name or key not in DISCRIMINATORS}
        assert set(told) == names, overrides
        assert all(sentence.endswith(".") for sentence in told.values())


@pytest.mark.parametrize("name", COMMANDS)
def test_help_prints_each_key_with_its_sentence(name, capsys):
    command = COMMANDS[name]
    assert run_command(["--help"], command) == 0
    lines = capsys.readouterr().out.splitlines()
    text = " ".join(" ".join(lines).split())
    default = "tiny_cnn" if name == "explain" else "cifar_cnn"
    keys = [key for key in keys_with_sentences(command.schema) if key.variant in ("", default)]
    places = place_keys(sweeps=False) if command.writes_files else []
    for key in (*keys, *places):
        assert any(line.startswith(f"  {key.name}=") for line in lines), key
        assert key.sentence in text
    for unused in command.unused:
        assert f" {unused}=" not in text


def test_help_shows_the_keys_of_what_is_chosen(capsys):
    assert run_command(["--help", "model=tiny_cnn", "seed=7"], COMMANDS["train"]) == 0
    printed = capsys.readouterr().out
    assert "  model.head_kernel_size=2\n" in printed
    assert "  seed=7\n" in printed


def table(command, configs):
    """The table of docs/reference.md."""
    rows = ["| key | meaning |", "|---|---|"]
    groups = groups_with_sentences(command.schema)
    keys = keys_with_sentences(command.schema)
    for group, sentence in groups.items():
        if len(options(configs, group)) > 1:
            listed = ", ".join(f"`{option}`" for option in options(configs, group))
            rows.append(f"| `{group}=` | {sentence} {listed} |")
    if "trainer" in groups:
        recipes = ", ".join(f"`{option}`" for option in options(configs, "experiment"))
        rows.append(f"| `experiment=` | {EXPERIMENT} {recipes} |")
    variants = {}
    for key in keys:
        of_key = variants.setdefault(key.name, {})
        of_key.setdefault(key.sentence, []).extend(key.variant.split("/") if key.variant else [])
    for name, sentences in variants.items():
        for sentence, having in sentences.items():
            some = having if len(sentences) > 1 else []
            of = f" ({', '.join(some)})" if some else ""
            rows.append(f"| `{name}`{of} | {sentence} |")
    rows += [f"| `{key.name}` | {key.sentence} |" for key in place_keys(sweeps=True)]
    return "\n".join(rows)


@pytest.mark.parametrize("name", ["train", "profile", "explain"])
def test_the_reference_has_the_sentences_of_the_schema(name, configs):
    """LAYERSCOPE_UPDATE_GOLDEN=1 writes them anew."""
    begin, end = f"<!-- keys of {name} -->\n\n", f"\n\n<!-- end of the keys of {name} -->"
    text = REFERENCE.read_text()
    before, _, rest = text.partition(begin)
    written, _, after = rest.partition(end)
    expected = table(COMMANDS[name], configs)
    if os.environ.get("LAYERSCOPE_UPDATE_GOLDEN") == "1":
        REFERENCE.write_text(before + begin + expected + end + after)
        return
    assert written == expected
