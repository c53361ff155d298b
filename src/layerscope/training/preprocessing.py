"""The preprocessing of images that belongs to a checkpoint's network."""

from typing import Any

from layerscope.base.errors import UserError
from layerscope.data.cifar10 import CLASS_NAMES
from layerscope.data.preprocessing import Preprocessing
from layerscope.data.view import view_for
from layerscope.training.checkpoints import RunFacts


def preprocessing_of(checkpoint: dict[str, Any]) -> Preprocessing:
    """Return the preprocessing that the checkpoint's network was trained with.

    Raises:
        UserError: it does not follow from the checkpoint's own configuration.
    """
    facts = RunFacts.of(checkpoint)
    preprocessing, config = Preprocessing.from_plain(facts.preprocessing), facts.parsed_config()
    if preprocessing.view != view_for(config.data, config.model, CLASS_NAMES):
        raise UserError(
            "the checkpoint's preprocessing is not that of its own configuration: use one that a "
            "run has written"
        )
    return preprocessing
