"""Weights of others, from a file on the disk: model.weights."""

import hashlib
import os
import re
import zipfile

import pytest
import torch
from bad_input import assert_refused
from helpers import TINY, read_json
from torchvision import models

from layerscope.base.errors import UserError
from layerscope.config.schema import TorchvisionConfig
from layerscope.networks import build_network
from layerscope.training.checkpoint_files import open_plain
from layerscope.training.checkpoints import network_state, with_later_keys
from layerscope.training.pretrained import load_pretrained

NAME = "squeezenet1_1"


def config(weights, name=NAME, num_classes=10):
    return TorchvisionConfig(
        family="torchvision",
        name=name,
        weights=str(weights),
        input_shape=(3, 32, 32),
        num_classes=num_classes,
    )


@pytest.fixture(scope="module")
def state():
    state = models.get_model(NAME, weights=None, num_classes=1000).state_dict()
    return state | {name: state[name] + 0.1 for name in state if name.endswith("bias")}  # not 0


def test_a_run_begins_with_them_and_needs_the_file_no_more(run, tmp_path, state):
    file = tmp_path / "weights.pth"
    torch.save(state, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    left_out = ("model.", "optimizer.", "trainer.max", "data.num")
    keys = [key for key in TINY if not key.startswith(left_out)]
    keys += ["data.num_train=16", "data.num_val=10", "data.num_test=10"]
    # A rate that changes no weight: those of the checkpoint are those of the file.
    keys += ["model=torchvision", f"model.name={NAME}", f"model.weights={file}", "optimizer=sgd"]
    keys += ["optimizer.lr=1e-30", "optimizer.weight_decay=0", f"hydra.run.dir={tmp_path}/run"]
    done = run("train", *keys, "trainer.max_epochs=1")
    assert (done.code, done.err) == (0, "")
    head = ["classifier.1.bias", "classifier.1.weight"]
    assert f"weights from {file}; {', '.join(head)} are of 1,000 classes there: left" in done.out
    found = {"file": str(file), "sha256": digest, "left_random": head}
    assert read_json(tmp_path / "run/run.json")["weights"] == found
    best = tmp_path / "run/checkpoints/best.ckpt"
    trained = network_state(open_plain(best))
    assert trained.keys() == state.keys()
    assert all(torch.equal(trained[name], state[name]) for name in state if name not in head)
    assert len(trained[head[0]]) == 10

    file.unlink()
    assert run("evaluate", f"ckpt_path={best}", f"hydra.run.dir={tmp_path}/e").code == 0
    assert_refused(run("train", *keys[:-1], f"hydra.run.dir={tmp_path}/b"), "pth does not exist")
    resumed = run("train", *keys, "trainer.max_epochs=2", "resume=auto", "allow_changes=true")
    assert (resumed.code, resumed.err) == (0, "")
    assert read_json(tmp_path / "run/run.json")["weights"] == found


@pytest.mark.parametrize("how", ["older format", "without counts", "DenseNet's older names"])
def test_files_as_torchvision_has_them(how, tmp_path):
    name = "densenet121" if how.startswith("DenseNet") else "resnet18"
    theirs = models.get_model(name, weights=None).state_dict()
    file = tmp_path / "weights.pth"
    if how == "older format":
        torch.save(theirs, file, _use_new_zipfile_serialization=False)
    elif how == "without counts":
        torch.save({k: v for k, v in theirs.items() if not k.endswith("_tracked")}, file)
    else:
        dotted = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))([12])")
        torch.save({dotted.sub(r"\1.\2", k): v for k, v in theirs.items()}, file)
    network = build_network(config(file, name, 1000))
    assert load_pretrained(network, config(file, name, 1000)).left_random == ()
    assert all(torch.equal(value, theirs[key]) for key, value in network.state_dict().items())


class Payload:
    def __reduce__(self):
        return os.system, ("touch ran",)


def squeezed(state, path):
    torch.save(state, path)
    with zipfile.ZipFile(path) as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


BAD = {
    "payload": (lambda s, p: torch.save({"a": Payload()}, p), "no readable checkpoint"),
    "payload, older": (
        lambda s, p: torch.save({"a": Payload()}, p, _use_new_zipfile_serialization=False),
        "no readable checkpoint",
    ),
    "module": (lambda s, p: torch.save(torch.nn.Linear(1, 1), p), "no readable checkpoint"),
    "text": (lambda s, p: p.write_text("hello"), "no readable checkpoint"),
    "nothing": (lambda s, p: None, "does not exist"),
    "folder": (lambda s, p: p.mkdir(), "is a directory"),
    "list": (lambda s, p: torch.save([1], p), "holds a list"),
    "nested": (lambda s, p: torch.save({"state_dict": s}, p), "save its state_dict alone"),
    "compressed": (squeezed, "is compressed"),
    "expanded": (
        lambda s, p: torch.save({"a": torch.zeros(1).expand(10**9)}, p), "describes a tensor of",
    ),
    "not finite": (
        lambda s, p: torch.save(s | {"features.0.bias": s["features.0.bias"] / 0}, p),
        "features.0.bias is not finite",
    ),
    "one more": (lambda s, p: torch.save(s | {"x": torch.ones(1)}, p), "x is not in the network"),
    "one missing": (
        lambda s, p: torch.save({k: s[k] for k in s if k != "features.0.bias"}, p),
        "features.0.bias is missing",
    ),
    "another shape": (
        lambda s, p: torch.save(s | {"features.0.bias": torch.zeros(10)}, p),
        "features.0.bias is (10,), not (64,)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_other_files_are_refused(case, state, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, hint = BAD[case]
    make(dict(state), tmp_path / "weights.pth")
    with pytest.raises(UserError) as error:
        load_pretrained(build_network(config("weights.pth")), config("weights.pth"))
    assert str(error.value).startswith("model.weights=weights.pth")
    assert hint in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_an_earlier_checkpoint_names_no_weights():
    facts = {"family": "torchvision", "name": NAME, "input_shape": [3, 32, 32], "num_classes": 10}
    assert with_later_keys({"model": facts})["model"]["weights"] is None
    assert "weights" not in with_later_keys({"model": {"family": "custom"}})["model"]
