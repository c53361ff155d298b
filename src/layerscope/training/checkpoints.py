"""The content of checkpoints, and how to open one without running anything in it."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from layerscope.base.errors import UserError
from layerscope.config.problems import first_problem, frozen, parse
from layerscope.config.schema import PreprocessingFacts, TrainConfig
from layerscope.training.checkpoint_files import (
    DamagedCheckpoint,
    is_sealed,
    open_plain,
)

FORMAT = 2
UNSEALED = 1  # without a checksum and without `surroundings`
READABLE = (UNSEALED, FORMAT)
FACTS_KEY = "layerscope"
NETWORK_PREFIX = "network."
# Keys that configurations got later, with what their absence means.
LATER_KEYS = {
    "profile": "auto",
    "resume": None,
    "allow_changes": False,
    "checkpoint_every_n_steps": None,
}


@dataclass(frozen=True)
class RunFacts:
    """The plain data that this project adds to a Lightning checkpoint."""

    config: dict[str, Any]  # resolved
    preprocessing: dict[str, Any]  # see data.module.Preprocessing
    batches_seen: int  # training batches, over all epochs
    surroundings: dict[str, Any]  # what else decides the bits: see hardware.run_environment
    # The running epoch's sums of each process, (processes, ...); empty where one trains.
    sums: dict[str, Tensor] = field(default_factory=dict)

    def put_into(self, checkpoint: dict[str, Any]) -> None:
        """Add the facts to a checkpoint, under a key of their own."""
        facts = asdict(self)
        if not self.sums:
            del facts["sums"]
        checkpoint[FACTS_KEY] = {"format": FORMAT, **facts}

    @classmethod
    def of(cls, checkpoint: dict[str, Any]) -> "RunFacts":
        """Return the facts; raise `UserError` where the checkpoint is not ours, or is newer."""
        facts = checkpoint.get(FACTS_KEY)
        if not isinstance(facts, dict):
            raise UserError(
                "the checkpoint was not written by layerscope: it holds no configuration"
            )
        if facts.get("format") not in READABLE:
            raise UserError(
                f"the checkpoint has format {facts.get('format')}, this layerscope reads {FORMAT}: "
                "use the version that wrote it"
            )
        try:
            is_unsealed = facts["format"] == UNSEALED
            found = cls(
                {**LATER_KEYS, **facts["config"]},
                facts["preprocessing"],
                _count(facts["batches_seen"]),
                {} if is_unsealed else dict(facts["surroundings"]),
                _tensors(facts.get("sums", {})),
            )
            PreprocessingFacts.model_validate(frozen(found.preprocessing))
        except ValidationError as error:
            raise UserError(
                f"the checkpoint's preprocessing.{first_problem(error)}: use one that a run has "
                "written"
            ) from error
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise UserError(
                f"the checkpoint's facts are not what a run writes ({type(error).__name__} "
                f"{error}): use one that a run has written"
            ) from error
        return found

    def parsed_config(self) -> TrainConfig:
        """Return the configuration, checked like one that a user typed."""
        return parse(TrainConfig, self.config)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return everything in a checkpoint of ours, on the CPU.

    Raises:
        DamagedCheckpoint: the file is not as it was written.
        UserError: it is no checkpoint of ours; the message says what it is.
    """
    checkpoint = open_plain(path)
    state = checkpoint.get("state_dict")
    if not isinstance(state, dict):
        raise UserError(f"ckpt_path={path} is no checkpoint that a run has written: no state_dict")
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise UserError(
            f"ckpt_path={path} is no checkpoint that a run has written: its state_dict "
            "holds something else than tensors"
        )
    RunFacts.of(checkpoint)
    if checkpoint[FACTS_KEY]["format"] != UNSEALED and not is_sealed(path):
        raise DamagedCheckpoint(f"ckpt_path={path} is damaged: its checksum is missing")
    return checkpoint


def _tensors(values: Any) -> dict[str, Tensor]:
    if not isinstance(values, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in values.items()
    ):
        raise TypeError("sums that are no tensors")
    return values


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"batches_seen={value}")
    return value


def network_state(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """Return the network's part of the state, by the network's own names."""
    return {
        name.removeprefix(NETWORK_PREFIX): value
        for name, value in checkpoint["state_dict"].items()
        if name.startswith(NETWORK_PREFIX)
    }


def load_weights(network: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Load the weights; raise `UserError` if they are of another architecture."""
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
    for name, value in saved.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise UserError(
                f"the checkpoint's {name} is not finite: give an earlier checkpoint, from before "
                "the run went wrong"
            )
        if value.dtype != wanted[name].dtype:
            raise UserError(
                f"the checkpoint's {name} is {value.dtype}, not {wanted[name].dtype}: give a .ckpt "
                "file of a run"
            )
    network.load_state_dict(saved)
