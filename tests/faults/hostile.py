"""Checkpoints of strangers, made without training, and the commands that are given them."""

import copy
import io
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path

import torch
from harness import ROOT, load_script
from helpers import TINY

from layerscope.config.compose import compose, without_places
from layerscope.data.cifar10 import CLASS_NAMES
from layerscope.networks.cifar_cnn import CifarCNN
from layerscope.training.checkpoints import FACTS_KEY, FORMAT

# Every way of opening a checkpoint; load() is called by itself.
COMMANDS = {
    "train": ("train", *TINY, "allow_changes=true", "ckpt_path={path}"),
    "evaluate": ("evaluate", "ckpt_path={path}"),
    "predict": ("predict", "image=x.png", "ckpt_path={path}"),
    "profile": ("profile_model", "ckpt_path={path}"),
    "explain": ("explain", "ckpt_path={path}"),
}


def call(script, *argv):
    """Exit code and what stands on stderr."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = load_script(script).main([str(argument) for argument in argv])
    return code, err.getvalue()


def give(command, path):
    """The command with this checkpoint."""
    script, *argv = COMMANDS[command]
    return call(script, *(argument.format(path=f"'{path}'") for argument in argv))


def assert_refused(result, hint=""):
    code, err = result
    assert code == 2, result
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert hint in err


@cache
def _config():
    return without_places(compose(ROOT / "configs", "train", TINY))


def plain_checkpoint(**network):
    """What opens, evaluates and predicts; keys of the network's configuration can be others."""
    config = copy.deepcopy(_config())
    config["model"] |= network
    state = CifarCNN(channels=(4, 8, 8)).state_dict()
    return {
        "state_dict": {f"network.{name}": value for name, value in state.items()},
        "callbacks": {"EndOfEpoch": {"metrics": [], "timing": [], "best": None}},
        "optimizer_states": [{"state": {}, "param_groups": []}],
        "loops": {"fit_loop": {}},
        "lr_schedulers": [],
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": "2.6.6",
        "hyper_parameters": {},
        FACTS_KEY: {
            "format": FORMAT,
            "config": config,
            "preprocessing": {
                "image_size": 32,
                "grayscale": False,
                "groups": {name: [index] for index, name in enumerate(CLASS_NAMES)},
                "mean": [0.5, 0.5, 0.5],
                "std": [0.2, 0.2, 0.2],
                "class_names": list(CLASS_NAMES),
                "stored_size": 32,
            },
            "data": {"name": "synthetic", "source": "made", "sha256": {"test_images": "ab"}},
            "batches_seen": 0,
            "surroundings": {"threads": 1, "processes": 1, "device": "cpu"},
        },
    }


class Payload:
    """Pickles to a call that makes the file `ran` in the current directory."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def put(checkpoint, place, value):
    """`value` at a path of keys and indices, where a list of one is made for an index."""
    *parents, last = place
    section = checkpoint
    for key in parents:
        section = section[key]
    section[last] = value
    return checkpoint


def pickled(path: Path, value, **keys):
    torch.save(value, path, **keys)
    return path
