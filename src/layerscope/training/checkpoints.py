"""Checkpoints: what is in them, and how to open one without running anything of it."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.config import TrainConfig, parse_train_config
from layerscope.errors import UserError
from layerscope.networks import build_network

FORMAT = 1
FACTS_KEY = "layerscope"
NETWORK_PREFIX = "network."
# Keys that configurations have since got: what a checkpoint without them meant.
LATER_KEYS = {"profile": "auto"}
PREPROCESSING = {"image_size", "grayscale", "groups", "mean", "std"}


@dataclass(frozen=True)
class RunFacts:
    """What this project adds to a Lightning checkpoint, all of it plain."""

    config: dict[str, Any]  # resolved
    preprocessing: dict[str, Any]  # see data.module.Preprocessing
    batches_seen: int  # training batches, over all epochs

    def put_into(self, checkpoint: dict[str, Any]) -> None:
        """Under a key of its own."""
        checkpoint[FACTS_KEY] = {"format": FORMAT, **asdict(self)}

    @classmethod
    def of(cls, checkpoint: dict[str, Any]) -> "RunFacts":
        """A UserError where the checkpoint is not ours, or is newer than this program."""
        facts = checkpoint.get(FACTS_KEY)
        if not isinstance(facts, dict):
            raise UserError(
                "the checkpoint was not written by layerscope: it holds no configuration"
            )
        if facts.get("format") != FORMAT:
            raise UserError(
                f"the checkpoint has format {facts.get('format')}, this layerscope reads {FORMAT}: "
                "use the version that wrote it"
            )
        try:
            missing = PREPROCESSING - facts["preprocessing"].keys()
            config = {**LATER_KEYS, **facts["config"]}
            found = cls(config, facts["preprocessing"], facts["batches_seen"])
        except (KeyError, AttributeError, TypeError) as error:
            raise UserError(
                f"the checkpoint lacks {error}: use one that a run has written"
            ) from error
        if missing:
            raise UserError(f"the checkpoint lacks preprocessing.{sorted(missing)[0]}: use another")
        return found

    def parsed_config(self) -> TrainConfig:
        """Checked like one that a user typed."""
        return parse_train_config(self.config)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Everything in a checkpoint of ours, on the CPU; a UserError names what is wrong with it."""
    checkpoint = open_plain(path)
    if not isinstance(checkpoint.get("state_dict"), dict):
        raise UserError(f"ckpt_path={path} is no checkpoint that a run has written: no state_dict")
    RunFacts.of(checkpoint)
    return checkpoint


def open_plain(path: str | Path) -> dict[str, Any]:
    """A local file of plain data and tensors; nothing in it can run."""
    if "://" in str(path):
        raise UserError(f"ckpt_path={path}: only local files are opened; download it first")
    file = Path(path)
    if not file.is_file():
        problem = "is a directory" if file.is_dir() else "does not exist"
        raise UserError(f"ckpt_path={path} {problem}: give a .ckpt file that a run has written")
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that is something else makes the reader raise anything
        first = str(error).split("\n", 1)[0].split(". ", 1)[0]
        reason = type(error).__name__ if first.isdigit() or not first else first
        raise UserError(f"ckpt_path={path} is no readable checkpoint ({reason})") from error
    if not isinstance(checkpoint, dict):
        raise UserError(f"ckpt_path={path} holds a {type(checkpoint).__name__}, not a checkpoint")
    return checkpoint


def network_state(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The network's own part of the state, by its own names."""
    return {
        name.removeprefix(NETWORK_PREFIX): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith(NETWORK_PREFIX)
    }


def load_weights(network: nn.Module, checkpoint: dict[str, Any]) -> None:
    """A UserError if the weights are of another architecture."""
    saved, wanted = network_state(checkpoint), network.state_dict()
    missing = sorted(wanted.keys() - saved.keys())
    extra = sorted(saved.keys() - wanted.keys())
    reshaped = [
        f"{name} is {tuple(saved[name].shape)}, not {tuple(wanted[name].shape)}"
        for name in wanted
        if name in saved and saved[name].shape != wanted[name].shape
    ]
    differences = [f"{name} is missing" for name in missing]
    differences += [f"{name} is not in the network" for name in extra] + reshaped
    if differences:
        raise UserError(
            "the checkpoint is of another architecture: "
            f"{differences[0]}" + (f" (and {len(differences) - 1} more)" if differences[1:] else "")
        )
    network.load_state_dict(saved)


def load(path: str | Path, target: str | None = None) -> nn.Module:
    """The trained network of a checkpoint, on the CPU, in eval mode.

    Args:
        target: `module.Class` of a user's own network; a checkpoint's own word is not trusted.

    Raises:
        UserError: the file is missing, unreadable, not ours, or of another architecture.
    """
    checkpoint = read_checkpoint(path)
    network = build_network(RunFacts.of(checkpoint).parsed_config().model, target)
    load_weights(network, checkpoint)
    return network.eval()
