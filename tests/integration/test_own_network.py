"""A user's own class: what a run can tell before its first batch."""

import pytest
import torch
from bad_input import assert_refused, snapshot
from helpers import TINY, read_json

NETWORKS = """
import torch
from torch import nn


class Plain(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, num_classes)

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))


class Lazy(Plain):
    def __init__(self):
        super().__init__()
        self.conv = nn.LazyConv2d(4, 3)


class LazyButRun(Lazy):
    def __init__(self):
        super().__init__()
        self(torch.zeros(1, 3, 32, 32))


class DictAsState(Plain):
    def __init__(self):
        super().__init__()
        self.conv = type("Conv", (nn.Conv2d,), {"get_extra_state": lambda self: {"a": 1}})(3, 4, 3)


class PreHook(Plain):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.conv.register_forward_pre_hook(lambda module, args: (args[0] * self.scale,))


class Noise(Plain):
    def __init__(self):
        super().__init__()
        self.register_buffer("noise", torch.randn(3, 32, 32), persistent=False)
        self.register_buffer("fixed", torch.ones(3, 32, 32), persistent=False)

    def forward(self, x):
        return super().forward(x + self.noise * self.fixed)


class Norm(Plain):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        return self.head(self.norm(self.conv(x).relu().mean((2, 3))))
"""
OWN = [key for key in TINY if not key.startswith(("model", "trainer.max_epochs"))]
OWN += ["trainer.max_epochs=1", "model=custom"]


@pytest.fixture
def own(run, tmp_path, monkeypatch):
    """Train one of the networks above."""
    (tmp_path / "own_networks.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def call(name, *overrides):
        target = f"model._target_=own_networks.{name}"
        given = {override.partition("=")[0] for override in overrides}
        kept = [key for key in OWN if key.partition("=")[0] not in given]
        return run("train", *kept, target, f"hydra.run.dir={tmp_path}/run", *overrides)

    return call


REFUSED = {
    "lazy": ("Lazy", (), "conv.weight of the network is lazy"),
    "a dict as state": ("DictAsState", (), "conv.get_extra_state of the network returns a dict"),
    "a last batch of one": (
        "Norm",
        ("data.num_train=65", "data.drop_last=false"),
        "data.drop_last=false leaves a last batch of one image",
    ),
    "batches of one": ("Norm", ("data.batch_size=1",), "data.batch_size=1 gives"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_is_refused_first(case, own, tmp_path):
    name, overrides, hint = REFUSED[case]
    (tmp_path / "own_networks.py").write_text(NETWORKS)
    own_files = {"own_networks.py", "__pycache__"}
    assert_refused(own(name, *overrides), hint)
    assert {path.name for path in tmp_path.iterdir()} <= own_files
    assert "run" not in {path.name for path in snapshot(tmp_path)}


TRAINED = {
    "lazy, but run": ("LazyButRun", ()),
    "pre-hook that computes": ("PreHook", ()),
    "batches of one without a norm": ("Plain", ("data.batch_size=1", "data.num_train=4")),
    "a last batch of one that is dropped": ("Norm", ("data.num_train=65",)),
    "a last batch of one that is not reached": (
        "Norm",
        ("data.num_train=65", "data.drop_last=false", "trainer.limit_train_batches=2"),
    ),
}


@pytest.mark.parametrize("case", TRAINED)
def test_what_can_be_trained_is(case, own, tmp_path):
    name, overrides = TRAINED[case]
    done = own(name, *overrides)
    assert (done.code, done.err) == (0, "")
    assert read_json(tmp_path / "run/results.json")["epochs"] == 1


def test_a_random_buffer_that_is_not_saved_is_told_of(own, run, tmp_path):
    done = own("Noise")
    assert done.code == 0
    assert done.err.startswith("warning: the buffer noise is random and in no checkpoint")
    assert done.err.count("\n") == 1
    best = tmp_path / "run/checkpoints/best.ckpt"
    assert "network.noise" not in torch.load(best, weights_only=True)["state_dict"]
    evaluated = run(
        "evaluate",
        f"ckpt_path={best}",
        "model._target_=own_networks.Noise",
        f"hydra.run.dir={tmp_path}/evaluation",
    )
    assert evaluated.code == 0
    assert evaluated.err.startswith("warning: the buffer noise is random")


@pytest.mark.parametrize(("accumulated", "told"), [(4, False), (5, True)])
def test_more_batches_to_accumulate_than_an_epoch_has(accumulated, told, own, tmp_path):
    done = own("Plain", f"trainer.accumulate_grad_batches={accumulated}")
    assert done.code == 0
    assert done.err == (
        f"warning: trainer.accumulate_grad_batches={accumulated} is more than the 4 training "
        "batches of an epoch, whose end takes a step in any case: one step an epoch\n"
        if told
        else ""
    )
    assert read_json(tmp_path / "run/results.json")["steps"] == 1
