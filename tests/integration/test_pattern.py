import pytest
from helpers import TINY, read_json

import layerscope

PATTERN = "model.pattern='Input → (Conv(4) → ReLU → Pool) × 2 → FC(6) → ReLU → FC'"
KEYS = [key for key in TINY if not key.startswith("model.")]


def test_a_written_network_trains_and_comes_back(run, tmp_path):
    directory = tmp_path / "run"
    trained = run("train", *KEYS, "model=pattern", PATTERN, f"hydra.run.dir={directory}")
    assert trained.code == 0, trained.err
    layers = [row["layer"] for row in read_json(directory / "layers.json")["layers"]]
    assert layers[:4] == ["block1.conv1", "block1.relu1", "block1.pool", "block2.conv1"]
    checkpoint = directory / "checkpoints" / "best.ckpt"
    assert layerscope.load(checkpoint).fc1.in_features == 4 * 8 * 8
    scored = run("evaluate", f"ckpt_path={checkpoint}", f"hydra.run.dir={tmp_path}/evaluation")
    assert scored.code == 0, scored.err
    accuracy = read_json(tmp_path / "evaluation" / "evaluation.json")["test/acc"]
    assert accuracy == read_json(directory / "results.json")["test/acc"]


@pytest.mark.parametrize("script", ["train", "profile_model"])
def test_a_mistake_has_carets_and_leaves_nothing(script, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(script, "model=pattern", "model.pattern='Input → (Covn → ReLU) × 2 → FC'")
    assert result.code == 2
    assert result.err == (
        "error: model.pattern: Covn is no layer: did you mean Conv?\n"
        "  Input → (Covn → ReLU) × 2 → FC\n"
        "           ^^^^\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_pattern_without_quotes_of_its_own_is_one_line(run):
    result = run("train", "model=pattern", "model.pattern=Input → FC")
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert "quote the value, \"model.pattern='Input → FC'\"" in result.err
