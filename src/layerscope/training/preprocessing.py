"""How the network of a checkpoint sees a picture."""

from typing import Any

from layerscope.base.errors import UserError
from layerscope.data.cifar10 import CLASS_NAMES
from layerscope.data.module import Preprocessing
from layerscope.data.view import view_for
from layerscope.training.checkpoints import RunFacts


def preprocessing_of(checkpoint: dict[str, Any]) -> Preprocessing:
    """As it was trained.

    Raises:
        UserError: its configuration would see pictures otherwise.
    """
    facts = RunFacts.of(checkpoint)
    preprocessing, config = Preprocessing.from_plain(facts.preprocessing), facts.parsed_config()
    if preprocessing.view != view_for(config.data, config.model, CLASS_NAMES):
        raise UserError(
            "the checkpoint's preprocessing is not that of its own configuration: use one that a "
            "run has written"
        )
    return preprocessing
