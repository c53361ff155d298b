"""Folders as the jobs of a sweep leave them."""

import json


def begin_job(folder, overrides, accuracies=()):
    """Make a job's folder as it is while the job runs; a validation accuracy for each epoch."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 0\n")
    (folder / "run.json").write_text(json.dumps({"command": ["train.py", *overrides]}))
    rows = "".join(f"{n},{n},2.5,0.1,2.4,{each},0.1\n" for n, each in enumerate(accuracies))
    header = "epoch,step,train/loss,train/acc,val/loss,val/acc,lr\n"
    (folder / "metrics.csv").write_text(header + rows)


def make_job(folder, overrides, accuracy, size=10, peak=None, lower_bound=False):
    """Make the folder of a finished job, whose costs are multiples of `size`."""
    begin_job(folder, overrides, [accuracy / 2, accuracy])
    totals = {"num_parameters": size, "macs": 2 * size, "lower_bound": lower_bound}
    memory = {"saved_bytes": 3 * size, "peak_bytes": peak}
    results = {"val/acc": accuracy, "test/acc": 0.5, "train_seconds": 1.0}
    for name, content in {
        "results.json": results,
        "layers.json": {"totals": totals},
        "activation_memory.json": {"batch_size": 8, "totals": memory},
    }.items():
        (folder / name).write_text(json.dumps(content))
