"""Everything between a photo and the network, as plain data."""

from dataclasses import dataclass
from typing import Any

from layerscope.data.batches import Normalisation
from layerscope.data.synthetic import SIZE
from layerscope.data.view import View


@dataclass(frozen=True)
class Preprocessing:
    """Everything between a photo and the network; a checkpoint carries it."""

    view: View
    normalisation: Normalisation

    @property
    def stored_size(self) -> int:
        """Height and width of the data set's images, which `view` starts from."""
        return SIZE

    def to_plain(self) -> dict[str, Any]:
        """Return strings, numbers, lists and dicts only."""
        return {
            "image_size": self.view.image_size,
            "grayscale": self.view.grayscale,
            "groups": {name: list(members) for name, members in self.view.groups},
            "mean": list(self.normalisation.mean),
            "std": list(self.normalisation.std),
        }

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> "Preprocessing":
        """Return the inverse of `to_plain`."""
        groups = tuple((name, tuple(members)) for name, members in values["groups"].items())
        return cls(
            View(values["image_size"], values["grayscale"], groups),
            Normalisation(tuple(values["mean"]), tuple(values["std"])),
        )
