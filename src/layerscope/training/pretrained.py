"""Weights that others have trained, from a file on the user's disk."""

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.base.errors import UserError
from layerscope.config.schema import NetworkBase, TorchvisionConfig
from layerscope.training.checkpoint_files import NamedFile, open_state_dict

_MEND = "give a state_dict of this network, saved by torch.save"
# torchvision's own files of DenseNet have names of an earlier version: denselayer1.norm.1.weight.
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.((?:[12])\.\w+)$")


@dataclass(frozen=True)
class Pretrained:
    """What a network got from a file."""

    path: str
    sha256: str
    left_random: tuple[str, ...]  # the last layer's tensors, of another number of classes
    num_classes: int | None  # the file's, where it is another

    def to_plain(self) -> dict[str, Any]:
        """Return what run.json says of it."""
        return {"file": self.path, "sha256": self.sha256, "left_random": list(self.left_random)}

    def __str__(self) -> str:
        line = f"weights from {self.path}"
        if not self.left_random:
            return line
        names, are = ", ".join(self.left_random), "is" if len(self.left_random) == 1 else "are"
        return f"{line}; {names} {are} of {self.num_classes:,} classes there: left random"


def load_pretrained(network: nn.Module, config: NetworkBase) -> Pretrained | None:
    """Load the weights that `model.weights` names; return None where it names none.

    Only for a configuration that the user composed: a file named in a checkpoint is not opened.

    Raises:
        UserError: the file is missing, hostile, or of another network.
    """
    if not isinstance(config, TorchvisionConfig) or config.weights is None:
        return None
    file = NamedFile(Path(config.weights), "model.weights", _MEND)
    content, sha256 = open_state_dict(file)
    state = _state_in(content, file)
    wanted = network.state_dict()
    others = _of_other_classes(state, wanted, config.num_classes)
    _refuse_differences(state, wanted, others, file)
    kept = OrderedDict((name, value) for name, value in state.items() if name not in others)
    _keep_versions(content, kept)
    try:
        network.load_state_dict(kept, strict=False)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:  # odd versions
        raise UserError(f"{file} cannot be loaded ({error}): {_MEND}") from error
    return Pretrained(
        str(file.path), sha256, tuple(sorted(others)), next(iter(others.values()), None)
    )


def _state_in(content: Mapping[str, Any], file: NamedFile) -> dict[str, Tensor]:
    """Return the tensors by the network's names; refuse numbers that are not finite."""
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            hint = "; save its state_dict alone" if "state_dict" in content else ""
            raise UserError(f"{file} holds something else than tensors under {name}: {_MEND}{hint}")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise UserError(f"{file}: {name} is not finite: {_MEND}")
    return {_OLD_DENSENET.sub(r"\1\2", name): value for name, value in content.items()}


def _of_other_classes(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], num_classes: int
) -> dict[str, int]:
    """Return the tensors of the last layers that differ in the number of classes alone, with it."""
    found = {}
    for name, value in state.items():
        ours = wanted[name].shape if name in wanted else ()
        is_last = len(ours) > 0 and ours[0] == num_classes and value.shape[1:] == ours[1:]
        if is_last and value.dim() and value.shape != ours:
            found[name] = int(value.shape[0])
    return found if len(set(found.values())) == 1 else {}


def _refuse_differences(
    state: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    others: Mapping[str, int],
    file: NamedFile,
) -> None:
    """Refuse weights of another network; counts of batches are missing in older files."""
    missing = [n for n in wanted if n not in state and not n.endswith("num_batches_tracked")]
    differences = [f"{name} is missing" for name in missing]
    differences += [f"{name} is not in the network" for name in state if name not in wanted]
    differences += [
        f"{name} is {tuple(state[name].shape)}, not {tuple(wanted[name].shape)}"
        for name in wanted
        if name in state and name not in others and state[name].shape != wanted[name].shape
    ]
    if differences:
        more = f" (and {len(differences) - 1} more)" if differences[1:] else ""
        raise UserError(f"{file} is of another network: {differences[0]}{more}: {_MEND}")


def _keep_versions(content: Any, kept: OrderedDict[str, Tensor]) -> None:
    """Keep the versions that torch.save noted of each layer, by which layers read older files."""
    versions = getattr(content, "_metadata", None)
    if isinstance(versions, dict) and all(isinstance(v, dict) for v in versions.values()):
        kept._metadata = versions  # type: ignore[attr-defined]
