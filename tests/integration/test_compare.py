"""scripts/compare.py as a user runs it."""

from pathlib import Path

import pytest
from bad_input import assert_refused
from helpers import read_json

QUICK = ("model=tiny_cnn", "batch_size=2", "instruments.time=false", "instruments.machine=false")
FROZEN = Path(__file__).parents[1] / "frozen/files/profile.json"


@pytest.fixture(scope="module")
def profiles(tmp_path_factory):
    from helpers import load_script

    folder = tmp_path_factory.mktemp("profiles")
    for name, keys in {"old": (), "new": ("model.channels=[2,5,2]",)}.items():
        code = load_script("profile_model").main([*QUICK, *keys, f"hydra.run.dir={folder / name}"])
        assert code == 0
    return folder


def test_what_grew_is_printed_and_saved(run, profiles, tmp_path):
    keys = (f"a={profiles / 'old'}", f"b={profiles / 'new/profile.json'}")
    result = run("compare", *keys, f"hydra.run.dir={tmp_path / 'c'}")
    assert (result.code, result.err) == (0, "")
    names = {path.name for path in (tmp_path / "c").iterdir()}
    assert names == {"compare.json", "compare.md", "compare.html", "run.json"}
    record = read_json(tmp_path / "c/compare.json")
    grown = {d["layer"] for d in record["differences"] if (d["difference"] or 0) > 0}
    assert {"conv2", "relu2"} <= grown
    assert "conv1" not in grown
    assert "conv2" in result.out
    assert max(map(len, result.out.splitlines())) - len(str(tmp_path)) <= 100


def test_wrong_files_are_refused_and_nothing_is_made(run, profiles, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    old = f"a={profiles / 'old'}"
    cases = {
        "b is missing: give it": [],
        "b=nowhere.json cannot be read": ["b=nowhere.json"],
        "b=: names no file": ["b="],
        f"b={profiles}/profile.json cannot be read": [f"b={profiles}"],
        "is no profile.json": [f"b={profiles / 'new/run.json'}"],
        "an older version (format 1, not 2): save a new one": [f"b={FROZEN}"],
        "c is not a key": ["b=x", "c=3"],
    }
    for hint, keys in cases.items():
        assert_refused(run("compare", old, *keys), hint)
    assert list(tmp_path.iterdir()) == []
