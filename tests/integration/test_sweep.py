import csv

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
    with (tmp_path / "sweep/sweep.csv").open() as file:
        assert [row["job"] for row in csv.DictReader(file)] == [r["job"] for r in records]
    assert "best validation accuracy first" in result.out


def test_a_failed_job_is_listed_and_the_others_run(run, tmp_path):
    keys = [key for key in ONE_EPOCH if not key.startswith("optimizer.")]
    keys += ["optimizer.sgd_lr=1e30,0.1", f"hydra.sweep.dir={tmp_path}/sweep"]
    result = run("train", "-m", *keys)
    assert result.code == 1
    finished, failed = read_json(tmp_path / "sweep/sweep.json")
    assert (finished["status"], failed["status"]) == ("finished", "failed")
    assert "NonFiniteLoss" in failed["reason"]
    assert failed["val/acc"] is None
    assert "failed: job 0" in result.out
