"""Everything between a photo and the network, as plain data."""

from dataclasses import dataclass
from typing import Any

from layerscope.data.batches import Normalisation
from layerscope.data.cifar10 import CLASS_NAMES
from layerscope.data.synthetic import SIZE
from layerscope.data.view import View


@dataclass(frozen=True)
class Preprocessing:
    """Everything between a photo and the network; a checkpoint carries it."""

    view: View
    normalisation: Normalisation
    class_names: tuple[str, ...]  # the data's own, of which the view may put some together
    stored_size: int  # height and width of the data's own images, which the view starts from

    def to_plain(self) -> dict[str, Any]:
        """Return strings, numbers, lists and dicts only."""
        return {
            "image_size": self.view.image_size,
            "grayscale": self.view.grayscale,
            "groups": {name: list(members) for name, members in self.view.groups},
            "mean": list(self.normalisation.mean),
            "std": list(self.normalisation.std),
            "class_names": list(self.class_names),
            "stored_size": self.stored_size,
        }

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> "Preprocessing":
        """Return the inverse of `to_plain`; old checkpoints leave out what CIFAR-10 says."""
        groups = tuple((name, tuple(members)) for name, members in values["groups"].items())
        return cls(
            View(values["image_size"], values["grayscale"], groups),
            Normalisation(tuple(values["mean"]), tuple(values["std"])),
            tuple(values.get("class_names") or CLASS_NAMES),
            values.get("stored_size") or SIZE,
        )
