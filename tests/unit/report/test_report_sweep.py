"""The table of a sweep, from folders as jobs leave them."""

import json

from layerscope.report.sweep import finish_sweep, save_failure


def job(folder, overrides, accuracy):
    folder.mkdir(parents=True)
    totals = {"num_parameters": 10, "macs": 20, "saved_bytes": 30}
    results = {"val/acc": accuracy, "test/acc": 0.5, "train_seconds": 1.0}
    for name, content in {
        "run.json": {"command": ["train.py", *overrides]},
        "results.json": results,
        "layers.json": {"totals": totals},
        "activation_memory.json": {"totals": totals},
    }.items():
        (folder / name).write_text(json.dumps(content))


def test_how_a_command_went_on_is_no_difference_between_its_jobs(tmp_path, capsys):
    job(tmp_path / "0", ["seed=0", "data=synthetic"], 0.5)
    job(tmp_path / "1", ["seed=1", "data=synthetic", "resume=auto", "+allow_changes=true"], 0.25)
    (tmp_path / "2").mkdir()
    save_failure(tmp_path / "2", ["seed=2", "data=synthetic", "resume=auto"], "a reason")
    assert finish_sweep(tmp_path) == 1
    records = json.loads((tmp_path / "sweep.json").read_text())
    assert [record["overrides"] for record in records] == [
        [f"seed={number}", "data=synthetic"] for number in range(3)
    ]
    assert "resume" not in (tmp_path / "sweep.csv").read_text()
    shown = capsys.readouterr().out
    assert "seed=1" in shown
    assert "resume" not in shown
    assert "data=synthetic" not in shown
