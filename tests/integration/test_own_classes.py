"""A user's own optimizer, schedule, metrics and callbacks, by name from the command line."""

import csv
import os
import re
import sys
from pathlib import Path

import pytest
import torch
from bad_input import assert_refused
from helpers import TINY, read_json, same_weights

from layerscope.base.errors import UserError
from layerscope.config.compose import open_composer
from layerscope.training.checkpoint_files import open_plain, save_sealed
from layerscope.training.history import History

OWN = """
import os

import lightning as L
import torch
from mycallback import Hello
from mynet import MyNet
from torch import nn


class B(MyNet):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.append(nn.ReLU())


class Counts(Hello):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.batches == int(os.environ.get("FAIL_AT", -1)):
            raise KeyError("enough")


class KeepsObjects(L.Callback):
    def state_dict(self):
        return {"all": object()}


class Odd(torch.optim.SGD):
    def step(self, closure=None):
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["odd"] = object()


def breaks(step, num_steps):
    return 1 / (3 - step)
"""
PAGE = Path(__file__).parents[2] / "docs/own_network.md"  # whose examples are used here
KEYS = [key for key in TINY if not key.startswith("optimizer")]
KEYS[KEYS.index("trainer.max_epochs=2")] = "trainer.max_epochs=3"
KEYS[KEYS.index("model.channels=[4,8,8]")] = "model.channels=[2,2]"
RMSPROP = [
    "optimizer=custom",
    "optimizer._target_=torch.optim.RMSprop",
    "optimizer.lr=0.01",
    "+optimizer.alpha=0.9",
    "+optimizer.momentum=0.5",
]
ONE_CYCLE = [
    "scheduler=custom",
    "scheduler._target_=torch.optim.lr_scheduler.OneCycleLR",
    "scheduler.interval=step",
    "+scheduler.max_lr=0.02",
    "+scheduler.total_steps=12",
]
F1 = (
    "metrics.extra=[{_target_: torchmetrics.classification.MulticlassF1Score, num_classes: 10, "
    "average: macro}]"
)
COUNTS = "callbacks.extra=[{_target_: own_things.Counts, every: 3}]"
EVERYTHING = [*KEYS, *RMSPROP, *ONE_CYCLE, F1, COUNTS]


@pytest.fixture(scope="module", autouse=True)
def _own_things(tmp_path_factory):
    """Let the classes above be imported as a user's from his current directory."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_things.py").write_text(OWN)
    for name, content in re.findall(
        r"```python\n# (\w+\.py)\n(.*?)```", PAGE.read_text(), re.DOTALL
    ):
        (folder / name).write_text(content)
    before = os.getcwd()
    os.chdir(folder)
    yield
    os.chdir(before)
    sys.path.remove(str(folder))
    for name in ("own_things", "mynet", "mycallback", "myschedule"):
        sys.modules.pop(name, None)


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def f1_of(counts):
    """Macro F1 from the confusion matrix, over the classes that occur or are predicted."""
    counts = torch.tensor(counts, dtype=torch.float64)
    right, wrong = counts.diag(), counts.sum(0) + counts.sum(1) - 2 * counts.diag()
    occurs = right + wrong > 0
    return (2 * right / (2 * right + wrong))[occurs].mean().item()


def test_all_of_it_in_one_run_that_fails_and_is_resumed(run, tmp_path, monkeypatch):
    keys = [*EVERYTHING, "checkpoint_every_n_steps=1"]
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert run("train", *keys, f"hydra.run.dir={whole}").code == 0
    with monkeypatch.context() as patched:
        patched.setenv("FAIL_AT", "6")  # within the second epoch
        failed = run("train", *keys, f"hydra.run.dir={again}")
    assert failed.code == 1
    assert failed.err == (
        "error: callbacks.extra: own_things.Counts failed in on_train_batch_start: "
        "KeyError: 'enough'\n"
    )
    resumed = run("train", *keys, f"hydra.run.dir={again}", "resume=auto")
    assert (resumed.code, resumed.err) == (0, "")
    for name in ("best.ckpt", "last.ckpt"):
        assert same_weights(whole / "checkpoints" / name, again / "checkpoints" / name)
    assert (whole / "metrics.csv").read_bytes() == (again / "metrics.csv").read_bytes()
    one, two = (open_plain(folder / "checkpoints/last.ckpt") for folder in (whole, again))
    assert one["callbacks"]["Counts"] == two["callbacks"]["Counts"] == {"batches": 12}
    assert one["lr_schedulers"] == []

    optimizer = torch.optim.RMSprop([torch.zeros(1)], lr=0.01, alpha=0.9, momentum=0.5)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, total_steps=12)
    rates = []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        last = dict(optimizer.param_groups[0])
        optimizer.step()
        if len(rates) < 12:
            scheduler.step()
    table = rows(whole / "metrics.csv")
    assert [float(row["lr"]) for row in table] == rates[3::4]
    (saved,) = two["optimizer_states"]
    assert {key: saved["param_groups"][0][key] for key in ("alpha", "momentum", "lr")} == {
        key: last[key] for key in ("alpha", "momentum", "lr")
    }
    assert saved["state"][0].keys() == {"step", "square_avg", "momentum_buffer"}

    results = read_json(whole / "results.json")
    best = max(table, key=lambda row: float(row["val/acc"]))
    assert results["val/MulticlassF1Score"] == float(best["val/MulticlassF1Score"])
    check_what_needs_the_name_again(run, tmp_path, again, results)


def check_what_needs_the_name_again(run, tmp_path, folder, results):
    best, last = folder / "checkpoints/best.ckpt", folder / "checkpoints/last.ckpt"
    evaluate = ["evaluate", f"ckpt_path={best}"]
    assert_refused(
        run(*evaluate, f"hydra.run.dir={tmp_path}/a"), 'type it again, "metrics.extra=[{'
    )
    assert run(*evaluate, F1, f"hydra.run.dir={tmp_path}/a").code == 0
    found = read_json(tmp_path / "a/evaluation.json")
    assert found["test/MulticlassF1Score"] == results["test/MulticlassF1Score"]
    assert found["test/MulticlassF1Score"] == pytest.approx(f1_of(found["confusion"]["counts"]))
    assert run(*evaluate, "metrics.extra=[]", f"hydra.run.dir={tmp_path}/b").code == 0
    assert "test/MulticlassF1Score" not in read_json(tmp_path / "b/evaluation.json")

    longer = [key for key in EVERYTHING if key != "trainer.max_epochs=3" and key != F1]
    longer[longer.index("+scheduler.total_steps=12")] = "+scheduler.total_steps=16"
    longer += ["trainer.max_epochs=4", f"hydra.run.dir={tmp_path}/longer", f"ckpt_path={last}"]
    assert_refused(run("train", *longer), "metrics.extra was [{_target_:torchmetrics")
    assert run("train", *longer, "allow_changes=true").code == 0
    table = rows(tmp_path / "longer/metrics.csv")
    assert len(table) == 4
    assert "val/MulticlassF1Score" not in table[0]

    def refused(change, hint):
        checkpoint = open_plain(last)
        change(checkpoint)
        save_sealed(tmp_path / "changed.ckpt", checkpoint)
        resumed = [*longer[:-1], f"ckpt_path={tmp_path}/changed.ckpt", "allow_changes=true"]
        assert_refused(run("train", *resumed, F1), hint)

    state = ("optimizer_states", 0, "state", 0)

    def at(checkpoint, *path):
        for key in path:
            checkpoint = checkpoint[key]
        return checkpoint

    (tmp_path / "longer").rename(tmp_path / "before")
    refused(lambda c: at(c, *state).update(square_avg=torch.ones(2)), "state.0.square_avg")
    refused(lambda c: at(c, *state).pop("step"), "optimizer_states.state.0")
    checkpoint = open_plain(last)
    written = at(checkpoint, "callbacks", "EndOfEpoch")
    columns = written["columns"]
    for wrong in (columns[1:], [*columns, "val/a\n"], [*columns, columns[0]], "epoch", [3]):
        written["columns"] = wrong
        with pytest.raises(UserError, match="holds no history"):
            History.of(checkpoint)


REFUSED = {
    "closure": ["optimizer._target_=torch.optim.LBFGS", "(its closure)"],
    "sparse": ["optimizer._target_=torch.optim.SparseAdam", "cannot take a step: RuntimeError"],
    "odd state": ["optimizer._target_=own_things.Odd", "a value of type object in its state"],
    "no optimizer": ["optimizer._target_=torch.nn.ParameterList", "not a torch.optim.Optimizer"],
    "a key": ["optimizer._target_=torch.optim.SGD", "+optimizer.mom=1", "argument 'mom'"],
    "no plus": [*RMSPROP[:2], "optimizer.alpha=1", "write +optimizer.alpha=... to pass it"],
    "no target": ["optimizer=custom", "optimizer._target_ is missing"],
    "not chosen": ["optimizer=sgd", "optimizer._target_=torch.optim.SGD", "for optimizer=custom"],
    "no place": [
        "+trainer._target_=os.system", "trainer._target_ is not taken: model, data, optimizer",
    ],
    "plateau": [
        "scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau", "a measured value",
    ],
    "too few steps": [
        "scheduler._target_=torch.optim.lr_scheduler.OneCycleLR", "scheduler.interval=step",
        "+scheduler.max_lr=1", "+scheduler.total_steps=5", "+scheduler.cycle_momentum=false",
        "OneCycleLR failed in step",
    ],
    "no step size": [
        "scheduler._target_=torch.optim.lr_scheduler.StepLR", "give +scheduler.step_size=...",
    ],
    "breaks": ["scheduler._target_=own_things.breaks", "breaks failed in step 3: ZeroDivision"],
    "classes": [F1.replace("10", "5"), "MulticlassF1Score failed in update"],
    "matrix": [F1.replace("F1Score", "Recall").replace("macro", "none"), "shape (10,), not one"],
    "names": ["metrics.extra=[{_target_: a.b},{_target_: c.b}]", "a name in place of b"],
    "no metric": ["metrics.extra=[{_target_: own_things.Odd, params: []}]", "cannot be built"],
    "no callback": ["callbacks.extra=[{_target_: myschedule.falls, step: 1, num_steps: 2}]",
                    "not a Lightning Callback"],
    "a bar": ["callbacks.extra=[{_target_: lightning.pytorch.callbacks.TQDMProgressBar}]",
              "has its own progress bar"],
    "a recorder": ["callbacks.extra=[{_target_: layerscope.callbacks.ActivationMemory}]",
                   "callbacks.activation_memory.every_n_steps"],
    "objects": ["callbacks.extra=[{_target_: own_things.KeepsObjects}]", "of type object into"],
    "twice": [COUNTS.replace("}]", "},{_target_: own_things.Counts, every: 1}]"), "Counts: give"],
    "sweep": ["-m", "model=custom,cifar_cnn", "model._target_=mynet.MyNet",
              "model._target_ names a class of your own, for model=custom"],
    "sweep, no target": ["-m", "model=custom,cifar_cnn", "model._target_ is missing: give it"],
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_run_cannot_use_is_told_before_anything_is_made(case, run, tmp_path):
    *overrides, hint = REFUSED[case]
    groups = {o.partition("._target_=")[0] for o in overrides} & {"optimizer", "scheduler"}
    given = {o.partition("=")[0] for o in overrides}
    chosen = [f"{group}=custom" for group in groups - given]
    is_sweep = "-m" in overrides
    keys = [key for key in KEYS if not (is_sweep and key.startswith("model."))]
    place = f"hydra.{'sweep' if is_sweep else 'run'}.dir={tmp_path}/run"
    assert_refused(run("train", *keys, *chosen, *overrides, place), hint)
    assert list(tmp_path.iterdir()) == []


FILES = {
    "optimizer": "name: custom\n_target_: evil.Class\nlr: null\n",
    "scheduler": "name: custom\n_target_: evil.Class\ninterval: null\n",
    "metrics": "# @package _global_\nmetrics: {extra: [{_target_: evil.Class}]}\n",
    "callbacks": "defaults: [default]\nextra: [{_target_: evil.Class}]\n",
}


@pytest.mark.parametrize("group", FILES)
def test_a_class_that_a_file_names_is_not_imported(group, run, tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "configs" / group).mkdir(parents=True)
    (tmp_path / "configs" / group / "theirs.yaml").write_text(FILES[group])
    choice = f"{'+' if group == 'metrics' else ''}{group}=theirs"
    done = run("train", "--config-dir", tmp_path / "configs", *KEYS, choice)
    assert_refused(done, "names evil.Class in a file, and a class is never taken from one")
    assert "evil" not in sys.modules


def test_classes_are_swept(run, tmp_path):
    keys = [key for key in KEYS if not key.startswith(("model.", "trainer.max_epochs"))]
    keys += ["trainer.max_epochs=1", f"hydra.sweep.dir={tmp_path}/sweep"]
    done = run("train", "-m", *keys, "model=custom", "model._target_=mynet.MyNet,own_things.B")
    assert (done.code, done.err) == (0, "")
    last_types = [
        read_json(tmp_path / "sweep" / job / "layers.json")["layers"][-1]["type"] for job in "01"
    ]
    assert last_types == ["Linear", "ReLU"]


def test_a_sweep_of_a_group_takes_a_key_that_its_default_lacks(configs):
    with open_composer("train", configs) as composer:
        sweep = composer.sweep(["optimizer=adam,adamw", "optimizer.betas=[0.8,0.9]", "seed=1,2"])
        found = [(v["name"], v["betas"]) for v in (job.values["optimizer"] for job in sweep.jobs)]
    assert found == [("adam", [0.8, 0.9])] * 2 + [("adamw", [0.8, 0.9])] * 2


def test_a_function_of_the_step_is_a_schedule(run, tmp_path):
    own = ["scheduler=custom", "scheduler._target_=myschedule.falls", "+scheduler.power=2"]
    keys = [*KEYS, *own, "optimizer=sgd", f"hydra.run.dir={tmp_path}/run"]
    assert run("train", *keys, "trainer.accumulate_grad_batches=2").code == 0
    rates = [float(row["lr"]) for row in rows(tmp_path / "run/metrics.csv")]
    assert rates == pytest.approx([0.1 * (1 - step / 6) ** 2 for step in (1, 3, 5)])
