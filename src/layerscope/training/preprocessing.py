"""The preprocessing of images that belongs to a checkpoint's network."""

from typing import Any

from layerscope.base.errors import UserError
from layerscope.data.cifar10 import CLASS_NAMES
from layerscope.data.module import Preprocessing
from layerscope.data.view import view_for
from layerscope.training.checkpoints import RunFacts

_CIFAR10_CLASSES = ("cifar10", "synthetic")  # data sets whose classes need no record


def preprocessing_of(checkpoint: dict[str, Any]) -> Preprocessing:
    """Return the preprocessing that the checkpoint's network was trained with.

    Raises:
        UserError: it does not follow from the checkpoint's own configuration.
    """
    facts = RunFacts.of(checkpoint)
    preprocessing, config = Preprocessing.from_plain(facts.preprocessing), facts.parsed_config()
    has_its_names = (
        config.data.name not in _CIFAR10_CLASSES or preprocessing.class_names == CLASS_NAMES
    )
    expected = view_for(config.data, config.model, preprocessing.class_names)
    if not has_its_names or preprocessing.view != expected:
        raise UserError(
            "the checkpoint's preprocessing is not that of its own configuration: use one that a "
            "run has written"
        )
    return preprocessing
