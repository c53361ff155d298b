import csv
import re
import statistics

import pytest
from helpers import TINY, read_json

ONE_EPOCH = [key for key in TINY if not key.startswith(("trainer.max_epochs", "optimizer.lr"))]
ONE_EPOCH += ["trainer.max_epochs=1"]


def test_a_sweep_ends_in_one_table_best_first(run, tmp_path):
    keys = [*ONE_EPOCH, "model.width=0.5,1", "seed=0,1"]
    result = run("train", "-m", *keys, f"hydra.sweep.dir={tmp_path}/sweep")
    assert result.code == 0, result.err
    records = read_json(tmp_path / "sweep/sweep.json")
    assert [record["status"] for record in records] == ["finished"] * 4
    accuracies = [record["val/acc"] for record in records]
    assert accuracies == sorted(accuracies, reverse=True)
    by_job = {record["job"]: record for record in records}
    assert "model.width=0.5" in by_job["0"]["overrides"]
    assert by_job["0"]["num_parameters"] < by_job["2"]["num_parameters"]
    for job, record in by_job.items():
        folder = tmp_path / "sweep" / job
        assert record["test/acc"] == read_json(folder / "results.json")["test/acc"]
        assert record["macs"] == read_json(folder / "layers.json")["totals"]["macs"]
        memory = read_json(folder / "activation_memory.json")
        assert record["saved_bytes"] == memory["totals"]["saved_bytes"]
        assert record["epochs"] == 1
        assert record["peak_bytes"] is None  # no CPU reports it
    with (tmp_path / "sweep/sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["job"] for row in rows] == [record["job"] for record in records]
    assert {(row["model.width"], row["seed"]) for row in rows} == {
        (width, seed) for width in ("0.5", "1") for seed in ("0", "1")
    }
    for width in ("0.5", "1"):
        of_width = [r for r in records if f"model.width={width}" in r["overrides"]]
        accuracies = [record["val/acc"] for record in of_width]
        for record in of_width:
            assert record["num_seeds"] == 2
            assert record["val/acc_mean"] == pytest.approx(statistics.mean(accuracies))
            assert record["val/acc_std"] == pytest.approx(statistics.stdev(accuracies))
    assert "best validation accuracy first" in result.out
    _check_report(run, tmp_path / "sweep")


def _check_report(run, directory):
    """Later reports are the same bytes, and every link leads to a run."""
    names = [f"sweep.{end}" for end in ("html", "md", "svg", "csv", "json")]
    written = {name: (directory / name).read_bytes() for name in names}
    result = run("report_sweep", directory)
    assert (result.code, result.err) == (0, "")
    assert {name: (directory / name).read_bytes() for name in names} == written
    links = set(re.findall(r'href="\./([^"]*)"', written["sweep.html"].decode()))
    assert links == {"0", "1", "2", "3"}
    assert "unknown for 2 settings" in written["sweep.md"].decode()  # the measured peak
    refused = run("report_sweep", directory, "hydra.run.dir=elsewhere")
    assert refused.code == 2
    assert "leave out hydra.run.dir=elsewhere" in refused.err


def test_a_failed_job_is_listed_and_the_others_run(run, tmp_path):
    keys = [key for key in ONE_EPOCH if not key.startswith("optimizer.")]
    keys += ["optimizer.sgd_lr=1e30,0.1", f"hydra.sweep.dir={tmp_path}/sweep"]
    keys += ["hydra.sweep.subdir='lr=${optimizer.sgd_lr}/run'"]
    result = run("train", "-m", *keys)
    assert result.code == 1
    finished, failed = read_json(tmp_path / "sweep/sweep.json")
    assert (finished["status"], failed["status"]) == ("finished", "failed")
    assert "NonFiniteLoss" in failed["reason"]
    assert failed["val/acc"] is None
    assert "failed: job lr=1e+30/run" in result.out
    assert (finished["job"], finished["folder"]) == ("run", "lr=0.1/run")
    assert "[lr=1e+30/run](./lr%3D1e%2B30/run)" in (tmp_path / "sweep/sweep.md").read_text()
