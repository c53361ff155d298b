"""Every key that changes how a run trains, in short runs."""

import pytest
import torch
from bad_input import assert_refused
from helpers import TINY, read_json, replaced, rows, same_weights

from layerscope.training.callbacks.end_of_epoch import EndOfEpoch

SHORT = tuple("trainer.max_epochs=1" if key == "trainer.max_epochs=2" else key for key in TINY)
# For another network, which may have another optimizer.
NO_MODEL = tuple(key for key in SHORT if not key.startswith(("model.", "optimizer.")))


@pytest.mark.parametrize(
    "keys",
    [
        ["optimizer=sgd"],
        ["optimizer=adam"],
        ["optimizer=adamw"],
        ["scheduler=cosine"],
        ["scheduler=constant"],
        ["scheduler=milestones"],
        ["loss=mse"],
        ["loss.label_smoothing=0.0"],
        ["trainer.precision=bf16-mixed"],
        ["trainer.channels_last=false"],
        ["trainer.gradient_clip_norm=0.1"],
        ["trainer.profiler=simple"],
        ["trainer.profiler=pytorch"],
        ["trainer.deterministic=true"],
        ["data.drop_last=false", "data.batch_size=24"],
        ["data.flip=random", "data.crop_padding=4"],
        ["data.groups={pets:[cat,dog],birds:[bird]}", "model.num_classes=2", "data.batch_size=8"],
        ["callbacks.activation_memory.every_n_steps=2"],
    ],
    ids=lambda keys: keys[0],
)
def test_a_key_trains(keys, run, tmp_path):
    kept = [
        k for k in SHORT if not (keys[0].startswith("optimizer=") and k.startswith("optimizer."))
    ]
    result = run("train", *replaced(kept, *keys), f"hydra.run.dir={tmp_path}/run")
    assert result.code == 0, result.err
    if keys != ["trainer.profiler=pytorch"]:  # which prints notes of its own
        assert result.err == ""
    assert 0 <= read_json(tmp_path / "run/results.json")["test/acc"] <= 1


@pytest.mark.parametrize(
    "keys",
    [
        ["model=tiny_cnn"],
        ["model=simple_cnn", "loss=mse"],
        ["model=torchvision", "model.name=mobilenet_v3_small"],
        ["model=torchvision", "model.name=googlenet", "model.input_shape=[3,64,64]"],
    ],
    ids=lambda keys: " ".join(keys),
)
def test_a_network_trains_and_evaluates(keys, run, tmp_path):
    few = ["data.num_train=16", "data.num_val=10", "data.num_test=10", "data.batch_size=8"]
    result = run("train", *replaced(NO_MODEL, *keys, *few), f"hydra.run.dir={tmp_path}/run")
    assert result.code == 0, result.err
    assert ("the first one is trained on" in result.out) == ("googlenet" in " ".join(keys))
    best = tmp_path / "run/checkpoints/best.ckpt"
    assert run("evaluate", f"ckpt_path={best}", f"hydra.run.dir={tmp_path}/eval").code == 0
    trained, evaluated = (
        read_json(tmp_path / "run/results.json"),
        read_json(tmp_path / "eval/evaluation.json"),
    )
    assert trained["test/loss"] == evaluated["test/loss"]


def test_a_users_own_network_trains_and_is_evaluated_when_named(run, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, hidden, num_classes):\n"
        "        super().__init__(nn.Conv2d(3, hidden, 3, stride=4), nn.ReLU(), nn.Flatten(),\n"
        "                         nn.Linear(hidden * 64, num_classes))\n"
    )
    monkeypatch.chdir(tmp_path)  # as a user has it: the class lies in the current directory
    keys = ["model=custom", "model._target_=mine.Net", "+model.hidden=4"]
    result = run("train", *NO_MODEL, *keys, "hydra.run.dir=run")
    assert result.code == 0, result.err
    best = "ckpt_path=run/checkpoints/best.ckpt"
    assert run("evaluate", best).code == 2
    assert run("evaluate", best, "model._target_=mine.Net", "hydra.run.dir=eval").code == 0
    named = ("model._target_=mine.Net", "hydra.run.dir=explained")
    assert_refused(run("explain", best), f"name it yourself, {named[0]}")
    assert run("explain", best, *named).code == 0
    assert run("profile_model", best, *named, "--cfg", "job").code == 0
    assert run("predict", best, "model._target_=mine.Net", "image=none.png").code == 2


def test_a_data_loader_trains_on_the_same_batches(run, tmp_path):
    keys = replaced(SHORT, "data.num_workers=1")
    assert run("train", *keys, f"hydra.run.dir={tmp_path}/device").code == 0
    assert run("train", *keys, "data.loader=workers", f"hydra.run.dir={tmp_path}/workers").code == 0
    first, second = (rows(tmp_path / name / "metrics.csv")[0] for name in ("device", "workers"))
    assert float(first["train/loss"]) == pytest.approx(float(second["train/loss"]), rel=1e-4)


def test_accumulated_batches_make_fewer_steps_and_the_same_gradient(run, tmp_path):
    """Without batch norm, two halves accumulated are one whole batch."""
    keys = ["model=simple_cnn", "optimizer=sgd", "data.flip=none", "scheduler=constant"]
    keys = [*replaced(NO_MODEL, *keys), "callbacks.activation_memory.every_n_steps=null"]
    whole = replaced(keys, "data.batch_size=16")
    halves = replaced(keys, "data.batch_size=8", "trainer.accumulate_grad_batches=2")
    assert run("train", *whole, f"hydra.run.dir={tmp_path}/whole").code == 0
    assert run("train", *halves, f"hydra.run.dir={tmp_path}/halves").code == 0
    paths = [tmp_path / name / "checkpoints/last.ckpt" for name in ("whole", "halves")]
    states = [torch.load(path, weights_only=True)["state_dict"] for path in paths]
    steps = [rows(path.parents[1] / "metrics.csv")[0]["step"] for path in paths]
    assert steps[0] == steps[1]
    for name in states[0]:
        if name.startswith("network."):
            torch.testing.assert_close(states[0][name], states[1][name], rtol=1e-4, atol=1e-5)


def test_fewer_images_than_a_batch_train_and_are_recorded(run, tmp_path):
    keys = replaced(SHORT, "data.batch_size=128", "data.drop_last=false")
    assert run("train", *keys, f"hydra.run.dir={tmp_path}").code == 0
    assert read_json(tmp_path / "activation_memory.json")["batch_size"] == 64
    timing = rows(tmp_path / "timing.csv")[0]
    images = float(timing["seconds"]) * float(timing["images_per_second"])
    assert images == pytest.approx(64, abs=2)


def test_early_stopping_stops(run, tmp_path):
    keys = replaced(SHORT, "trainer.max_epochs=6", "callbacks.early_stopping.patience=1")
    keys += ["callbacks.early_stopping.min_delta=100"]
    assert run("train", *keys, f"hydra.run.dir={tmp_path}").code == 0
    assert len(rows(tmp_path / "metrics.csv")) == 2


def test_a_debug_run_is_one_batch_of_each(run, tmp_path):
    keys = [key for key in SHORT if key != "trainer.max_epochs=1"]
    assert run("train", *keys, "experiment=debug", f"hydra.run.dir={tmp_path}").code == 0
    results = read_json(tmp_path / "results.json")
    assert (results["epochs"], results["steps"]) == (1, 1)


def test_a_non_finite_loss_ends_with_3_and_keeps_no_bad_weights(run, tmp_path):
    keys = replaced(SHORT, "optimizer.lr=1e30", "optimizer.sgd_lr=1e30")
    result = run("train", *keys, f"hydra.run.dir={tmp_path}")
    assert result.code == 3
    assert result.err.count("\n") == 1
    assert "optimizer.lr" in result.err
    assert "no checkpoint was saved" in result.err
    assert not (tmp_path / "checkpoints/last.ckpt").exists()


def test_recording_memory_changes_nothing(run, finished, tmp_path):
    keys = [*TINY, "callbacks.activation_memory.every_n_steps=1", f"hydra.run.dir={tmp_path}/run"]
    assert run("train", *keys).code == 0
    last = "checkpoints/last.ckpt"
    assert same_weights(finished / last, tmp_path / "run" / last)
    steps = {row["step"] for row in rows(tmp_path / "run/activation_memory.csv")}
    assert steps == {str(step) for step in range(8)}


def test_a_resume_in_a_new_directory_takes_the_best_checkpoint_along(
    run, finished, tmp_path, monkeypatch
):
    """The epochs after the resume do not improve: the best checkpoint is the first run's."""
    monkeypatch.setattr(EndOfEpoch, "_note_best", lambda *_: False)
    keys = [*TINY, f"ckpt_path={finished}/checkpoints/last.ckpt", f"hydra.run.dir={tmp_path}/run"]
    keys = replaced(keys, "trainer.max_epochs=3", "allow_changes=true")
    assert run("train", *keys).code == 0
    first, second = (read_json(path / "results.json") for path in (finished, tmp_path / "run"))
    assert first["test/loss"] == second["test/loss"]
    assert second["epochs"] == 3


def test_a_resume_of_a_finished_run_says_what_to_raise(run, finished, tmp_path):
    keys = [*TINY, f"ckpt_path={finished}/checkpoints/last.ckpt", f"hydra.run.dir={tmp_path}/run"]
    result = run("train", *keys)
    assert result.code == 2
    assert "trainer.max_epochs" in result.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("precision", "saved_bytes"), [("32-true", 19_941_120), ("bf16-mixed", 12_191_680)]
)
def test_the_default_networks_memory_to_the_byte(precision, saved_bytes, run, tmp_path):
    keys = ["data=synthetic", "data.num_train=32", "data.num_val=10", "data.num_test=10"]
    keys += ["data.batch_size=32", "trainer=cpu", "trainer.max_epochs=1", "trainer.threads=1"]
    keys += [f"trainer.precision={precision}", f"hydra.run.dir={tmp_path}"]
    assert run("train", *keys).code == 0
    totals = read_json(tmp_path / "activation_memory.json")["totals"]
    assert totals["saved_bytes"] == saved_bytes
    assert totals["input_bytes"] == 393_216
    if precision == "32-true":
        assert totals["output_bytes"] == 23_872_768
