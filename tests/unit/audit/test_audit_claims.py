"""Files of claims that come from anywhere: what is refused, in one line that names the place."""

import json

import pytest
from torch import nn

from layerscope.audit import audit_network, read_claims
from layerscope.audit.claims import MAX_BYTES
from layerscope.base.errors import UserError

FIGURE = {"at": "a / b", "printed": "5", "formula": "total.num_parameters"}
CLAIMS = {"input_shape": [2, 3], "sections": [{"section": "a slide", "figures": [FIGURE]}]}


def claims(tmp_path, record):
    path = tmp_path / "claims.json"
    content = record if isinstance(record, bytes) else json.dumps(record).encode()
    path.write_bytes(content)
    return read_claims(path)


def with_figure(**changes):
    return CLAIMS | {"sections": [{"section": "a slide", "figures": [FIGURE | changes]}]}


def with_sentence(**changes):
    sentence = {"claim": "it is large", "right": "{n}", "numbers": {"n": ["1 + 1", "0"]}}
    return CLAIMS | {"sentences": [sentence | changes]}


def test_the_smallest_file(tmp_path):
    audit = audit_network(nn.Linear(3, 4), claims(tmp_path, CLAIMS))
    (cell,) = audit.cells
    assert (cell.where, cell.printed, cell.right) == ("a slide / a / b", "5", "16")
    assert (cell.verdict, cell.exact, cell.place) == ("wrong", 16, "table")


def test_layers_modules_and_the_step_have_names(tmp_path):
    names = {
        "0.weights": 12,
        "0.bias": 4,
        "1.0.C_in": 4,
        "1.num_parameters": 4 * 4 + 4 + 4 * 2 + 2,
        "1.C_out": 2,
        "total.macs": 2 * (12 + 16 + 8),
        "input.N": 2,
        "dry_run.saved_bytes": 4 * 2 * (4 + 4),  # what the last two layers read
    }
    figures = [
        {"at": name, "printed": str(right), "formula": name} for name, right in names.items()
    ]
    network = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)))
    read = claims(tmp_path, CLAIMS | {"sections": [{"section": "s", "figures": figures}]})
    off = [cell for cell in audit_network(network, read).cells if cell.verdict != "agrees"]
    assert off == []


def test_units_of_the_file_come_first(tmp_path):
    record = with_figure(printed="0.001 KB", formula="input.N / 2") | {"units": {"KB": 1000}}
    assert audit_network(nn.Linear(3, 4), claims(tmp_path, record)).cells[0].verdict == "agrees"


UNREADABLE = {
    "no JSON": (b"{", "no JSON"),
    "no UTF-8": (b'{"title": "\xff"}', "no JSON"),
    "nothing": (b"", "no JSON"),
    "a list": (b"[]", "no JSON object"),
    "nested without end": (b"[" * 100_000, "no JSON"),
    "a number without end": (b'{"input_shape": [' + b"9" * 5_000 + b"]}", "out of range"),
    "not a number": (b'{"input_shape": [NaN]}', "input_shape"),
    "too large": (b" " * (MAX_BYTES + 1), "more than 1,048,576 bytes"),
    "no sections": ({"input_shape": [2, 3]}, "sections is missing"),
    "a key that is none": (CLAIMS | {"shape": [2]}, "shape is not a key"),
    "no shape": (CLAIMS | {"input_shape": []}, "input_shape"),
    "an empty batch": (CLAIMS | {"input_shape": [0, 3]}, "input_shape.0=0"),
    "a shape beyond memory": (CLAIMS | {"input_shape": [2**40, 3]}, "input_shape.0"),
    "a size in words": (CLAIMS | {"input_shape": ["2", 3]}, "input_shape.0"),
    "elements of 3 bytes": (CLAIMS | {"element_size": 3}, "element_size=3"),
    "a figure without a formula": (with_figure(formula=""), "formula"),
    "a figure that prints nothing": (with_figure(printed=""), "printed"),
    "a figure of a book": (with_figure(printed="5" * 201), "printed"),
    "decimals without end": (with_figure(decimals=10**9), "decimals"),
    "a place that is none": (
        CLAIMS | {"sections": [{"section": "s", "place": "x", "figures": []}]},
        "place=x",
    ),
    "a formula too long": (with_figure(formula="1 + " * 300 + "1"), "formula"),
    "groups without end": (CLAIMS | {"groups": {"g": ["input"] * 1_001}}, "groups.g"),
    "a unit of 0": (CLAIMS | {"units": {"MB": 0}}, "units.MB=0"),
    "another key than the network's": (CLAIMS | {"network": ["hydra.run.dir=/tmp/x"]}, "network"),
    "a class of somebody's": (CLAIMS | {"network": ["model._target_=os.system"]}, "network"),
    "a custom network": (CLAIMS | {"network": ["model=custom"]}, "network"),
    "a secret of the environment": (CLAIMS | {"network": ["model.name=${oc.env:HOME}"]}, "network"),
    "a group put elsewhere": (CLAIMS | {"network": ["model@hydra.run=lenet"]}, "network"),
}


@pytest.mark.parametrize(("record", "said"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_no_file_of_claims(tmp_path, record, said):
    with pytest.raises(UserError) as error:
        claims(tmp_path, record)
    assert said in str(error.value)
    assert "claims.json" in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("name", ["", "missing.json", "x" * 300])
def test_what_is_no_file(tmp_path, name):
    with pytest.raises(UserError, match="give a file of claims"):
        read_claims(tmp_path / name)


UNJUDGED = {
    "a layer that is not there": (with_figure(formula="conv9.macs"), "conv9"),
    "a quantity that is not there": (with_figure(formula="total.volume"), "volume"),
    "a window of a linear layer": (with_figure(formula="Linear.k"), "'k'"),
    "what only a map has": (with_figure(formula="total.__class__"), "__class__"),
    "division by zero": (with_figure(formula="5 / (total.macs - total.macs)"), "by zero"),
    "a shape for a number": (with_figure(formula="(total.N, 1) + 1"), "arithmetic"),
    "a figure that is none": (with_figure(printed="very many"), "very"),
    "a definition of itself": (CLAIMS | {"definitions": {"a": "a + 1"}}, "'a'"),
    "definitions that double": (
        CLAIMS | {"definitions": {"a0": "9 ^ 9"} | {f"a{n}": f"a{n - 1} ^ 9" for n in range(1, 9)}},
        "bits",
    ),
    "a sentence without its number": (with_sentence(right="{m}"), "'m'"),
    "a sentence with a bad number": (with_sentence(numbers={"n": ["1 +", "0"]}), "it is large"),
    "a shape that the network refuses": (CLAIMS | {"input_shape": [2, 5]}, "cannot run"),
}


@pytest.mark.parametrize(("record", "said"), UNJUDGED.values(), ids=UNJUDGED)
def test_what_cannot_be_judged(tmp_path, record, said):
    with pytest.raises(UserError) as error:
        audit_network(nn.Linear(3, 4), claims(tmp_path, record))
    assert said in str(error.value)


@pytest.mark.parametrize(
    "text", ["{n.__class__.__mro__}", "{n:>1000000000}", "{n!r}", "{0}{", "}", "{{}}"]
)
def test_a_sentence_is_text_and_no_format(tmp_path, text):
    record = with_sentence(right=text, why="{n}", numbers={"n": ["2", "0"], "0": ["1", "0"]})
    (finding,) = audit_network(nn.Linear(3, 4), claims(tmp_path, record)).findings
    assert finding.right == text.replace("{0}", "1")
    assert finding.why == "2"
