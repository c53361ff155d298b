"""Trackers, tried with the packages themselves, without a network."""

import errno
import json
import os
import shutil
import socket
import struct
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers import TINY, read_json, replaced, rows

needs_wandb = pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
needs_mlflow = pytest.mark.skipif(find_spec("mlflow") is None, reason="mlflow is not installed")
of_mlflow = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # its own, of SQLAlchemy

# A resumed run trains one epoch more.
LONGER = [*replaced(TINY, "trainer.max_epochs=3"), "resume=auto", "allow_changes=true"]
IN_METRICS = ("epoch", "train/loss", "train/acc", "val/loss", "val/acc", "lr")
F1 = (
    "metrics.extra=[{_target_: torchmetrics.classification.MulticlassF1Score, "
    "num_classes: 10, name: f1}]"
)
COSTS = ("num_parameters", "macs", "forward_flops", "backward_flops")


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_PROJECT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")


def train_again_from_before(directory):
    """Let the run forget its last epoch, which its trackers have: as after a damaged last.ckpt."""
    checkpoints = directory / "checkpoints"
    shutil.copy(checkpoints / "previous.ckpt", checkpoints / "last.ckpt")
    (directory / "results.json").unlink()


def assert_as_in_metrics(points, directory, digits=1e-12):
    """Hold a tracker's points against metrics.csv: each row once, at its step.

    Args:
        points: (step, value) by metric.
    """
    table = rows(directory / "metrics.csv")
    for name in IN_METRICS:
        expected = [(int(row["step"]), float(row[name])) for row in table]
        assert [step for step, _ in points[name]] == [step for step, _ in expected], name
        assert [value for _, value in points[name]] == pytest.approx(
            [value for _, value in expected], rel=digits, abs=0
        )
    results, layers = (read_json(directory / f"{name}.json") for name in ("results", "layers"))
    assert points["test/acc"][-1] == (results["steps"], pytest.approx(results["test/acc"]))
    assert points["best/val/acc"][-1][1] == pytest.approx(results["val/acc"])
    costs = {name: points[f"costs/{name}"] for name in COSTS}
    assert costs["num_parameters"] == [(0, layers["totals"]["num_parameters"])]
    assert costs["macs"] == [(0, layers["totals"]["macs"])]
    assert costs["backward_flops"][0][1] > costs["forward_flops"][0][1] > costs["macs"][0][1]
    memory = read_json(directory / "activation_memory.json")["totals"]["saved_bytes"]
    assert points["costs/saved_bytes"][-1] == (results["steps"], memory)


def test_tensorboard_has_the_rows_of_metrics_and_the_hparams(run, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    where = f"hydra.run.dir={tmp_path}"
    assert run("train", *TINY, F1, where).code == 0  # without a tracker: its rows are told later
    again = run("train", *LONGER, F1, "logger=[csv,tensorboard]", "profile=true", where)
    assert (again.code, again.err) == (0, "")
    train_again_from_before(tmp_path)
    assert run("train", *LONGER, F1, "logger=tensorboard", where).code == 0

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    points = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }
    assert_as_in_metrics(points, tmp_path, digits=1e-6)  # it keeps 32 bits
    table = rows(tmp_path / "metrics.csv")
    assert [step for step, _ in points["val/f1"]] == [int(row["step"]) for row in table]
    assert {"test/f1", "best/val/f1"} <= points.keys()
    totals = read_json(tmp_path / "profile.json")["totals"]
    macs = next(row for row in totals if row["quantity"] == "macs")
    assert points["profile/macs/fvcore"] == [(12, macs["measured"])]
    profile = events.Tensors("profile/text_summary")[0].tensor_proto.string_val[0].decode()
    assert profile == (tmp_path / "profile.md").read_text()

    data = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    chosen = HParamsPluginData.FromString(data).session_start_info.hparams
    assert chosen["optimizer.lr"].number_value == 0.02
    assert chosen["model.family"].string_value == "cifar_cnn"
    data = events.SummaryMetadata("_hparams_/experiment").plugin_data.content
    metrics = {info.name.tag for info in HParamsPluginData.FromString(data).experiment.metric_infos}
    assert {"test/acc", "costs/macs", "costs/saved_bytes"} <= metrics <= points.keys()


@pytest.mark.parametrize("number", [2, 12])
def test_a_tracker_that_fails_costs_a_warning_and_not_the_run(number, run, tmp_path, monkeypatch):
    """A full disk: TensorBoard's thread fails, and says so to the write after."""
    from tensorboard.compat.tensorflow_stub.io.gfile import LocalFileSystem

    written, write = [], LocalFileSystem._write

    def refuse(self, filename, *arguments):
        written.append(filename)
        if len(written) >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, filename, *arguments)

    monkeypatch.setattr(LocalFileSystem, "_write", refuse)
    result = run("train", *TINY, "logger=tensorboard", f"hydra.run.dir={tmp_path}")
    assert (result.code, result.err.count("\n")) == (0, 1), result
    assert "warning: logger=tensorboard failed, OSError" in result.err
    assert "No space left on device" in result.err
    assert len(rows(tmp_path / "metrics.csv")) == read_json(tmp_path / "results.json")["epochs"]


def test_a_tracker_that_cannot_be_opened_ends_the_run_before_it_trains(run, tmp_path):
    (tmp_path / "tensorboard").write_text("a file, and no folder")
    result = run("train", *TINY, "logger=tensorboard", f"hydra.run.dir={tmp_path}")
    assert (result.code, result.err.count("\n")) == (1, 1), result
    assert "resume=auto" in result.err
    (tmp_path / "tensorboard").unlink()
    again = [*TINY, "logger=tensorboard", "resume=auto", f"hydra.run.dir={tmp_path}"]
    assert run("train", *again).code == 0


@pytest.mark.parametrize(
    ("package", "module", "said"),
    [
        ("mlflow", "raise TypeError('Descriptors cannot be created directly')", "Descriptors"),
        ("wandb", "import wandb_of_nowhere", "wandb_of_nowhere"),
    ],
)
def test_a_package_that_is_there_in_part_is_refused_before_anything_is_made(
    package, module, said, run, tmp_path, monkeypatch
):
    (tmp_path / "packages" / package).mkdir(parents=True)
    (tmp_path / "packages" / package / "__init__.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.delitem(__import__("sys").modules, package, raising=False)
    result = run("train", *TINY, f"logger={package}", f"hydra.run.dir={tmp_path}/run")
    assert (result.code, result.err.count("\n")) == (2, 1), result
    assert said in result.err
    assert f"pip install --force-reinstall {package}" in result.err
    assert not (tmp_path / "run").exists()


@needs_mlflow
@of_mlflow
def test_mlflow_has_the_rows_of_metrics_in_one_run(run, tmp_path):
    from mlflow import MlflowClient

    keys = ["logger=mlflow", "profile=true", f"hydra.run.dir={tmp_path}/first"]
    assert run("train", *TINY, *keys).code == 0
    assert run("train", *LONGER, *keys).code == 0
    train_again_from_before(tmp_path / "first")
    result = run("train", *LONGER, *keys, "logger.mlflow.name=not read")
    assert (result.code, result.err) == (0, "")

    client = MlflowClient(f"sqlite:///{tmp_path}/first/mlflow.db")
    experiment = client.get_experiment_by_name("layerscope")
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.status, found.info.run_name) == ("FINISHED", "first")
    assert found.data.params["optimizer.lr"] == "0.02"
    assert found.data.params["trainer.gradient_clip_norm"] == "null"
    assert found.data.params["model.channels"] == "[4, 8, 8]"
    points = {
        name: [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, name)]
        for name in found.data.metrics
    }
    assert_as_in_metrics(points, tmp_path / "first")
    kept = Path(client.download_artifacts(found.info.run_id, "profile/profile.json"))
    assert kept.read_bytes() == (tmp_path / "first/profile.json").read_bytes()


@needs_mlflow
@of_mlflow
@pytest.mark.parametrize("allowed", [True, False])
def test_mlflows_file_store_is_used_where_mlflow_allows_it(allowed, run, tmp_path, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", str(allowed).lower())
    uri = f"file:{tmp_path}/store"
    keys = ["logger=mlflow", f"logger.mlflow.uri={uri}", "logger.mlflow.experiment=widths"]
    result = run("train", *TINY, *keys, f"hydra.run.dir={tmp_path}/run")
    if not allowed:
        assert (result.code, result.err.count("\n")) == (2, 1), result
        assert not (tmp_path / "run").exists()
        return
    assert (result.code, result.err) == (0, "")
    client = MlflowClient(uri)
    (found,) = client.search_runs([client.get_experiment_by_name("widths").experiment_id])
    assert found.data.metrics["test/acc"] == read_json(tmp_path / "run/results.json")["test/acc"]


@needs_mlflow
@of_mlflow
def test_a_server_that_does_not_answer_is_refused_at_once(run, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    keys = ["logger=mlflow", f"logger.mlflow.uri=http://127.0.0.1:{port}"]
    result = run("train", *TINY, *keys, f"hydra.run.dir={tmp_path}/run")
    assert (result.code, result.err.count("\n")) == (2, 1), result
    assert "start the server" in result.err
    assert not (tmp_path / "run").exists()


def records(path):
    """Read W&B's log of a run: LevelDB's format, whose records lie in blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32_768 - at % 32_768
        if left < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(parts)
            parts = b""


def plain(items):
    """Values by their keys."""
    return {i.key or i.nested_key[0]: json.loads(i.value_json) for i in items}


@needs_wandb
def test_each_job_of_a_sweep_is_one_run_of_wandb(run, tmp_path):
    keys = ["-m", "logger=wandb", "logger.wandb.project=widths", "model.width=0.5,1"]
    keys += [f"hydra.sweep.dir={tmp_path}/sweep", "profile=true"]
    assert run("train", *TINY, *keys).code == 0
    train_again_from_before(tmp_path / "sweep/1")
    assert run("train", *TINY, *keys, "resume=auto").code == 0

    names = set()
    for job, starts in (("0", 1), ("1", 2)):
        folder = tmp_path / "sweep" / job
        points, config, exits, artifacts = {}, {}, [], []
        for log in sorted((folder / "wandb").glob("offline-run-*/run-*.wandb")):
            for record in records(log):
                match record.WhichOneof("record_type"):
                    case "history":
                        values = plain(record.history.item)
                        step = int(values.pop("trainer/global_step", -1))
                        for name, value in values.items():
                            points.setdefault(name, []).append((step, value))
                    case "config":
                        config |= plain(record.config.update)
                    case "run":
                        names.add((record.run.run_id, record.run.display_name, record.run.project))
                    case "exit":
                        exits.append(record.exit.exit_code)
                    case "request" if record.request.HasField("log_artifact"):
                        artifacts.append(record.request.log_artifact.artifact)
                    case "artifact":
                        artifacts.append(record.artifact)
        assert_as_in_metrics(points, folder)
        assert exits == [0] * starts
        assert config["optimizer.lr"] == 0.02
        assert config["model.channels"] == [4, 8, 8]
        kept = {entry.path for artifact in artifacts for entry in artifact.manifest.contents}
        assert "profile.json" in kept
    assert sorted((name, project) for _, name, project in names) == [
        ("sweep/0", "widths"),
        ("sweep/1", "widths"),
    ]


@needs_wandb
def test_wandb_without_a_key_is_refused_and_does_not_ask(run, tmp_path, monkeypatch):
    import wandb

    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "settings"))
    wandb.teardown()  # its settings are read once
    result = run("train", *TINY, "logger=wandb", f"hydra.run.dir={tmp_path}/run")
    wandb.teardown()
    assert (result.code, result.err.count("\n")) == (2, 1), result
    assert "WANDB_MODE=offline" in result.err
    assert not (tmp_path / "run").exists()
