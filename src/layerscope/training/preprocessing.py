"""The preprocessing of images that belongs to a checkpoint's network."""

from typing import Any

from layerscope.base.errors import UserError
from layerscope.config.schema import (
    Cifar100Config,
    CustomDataConfig,
    DataConfig,
    ImageFolderConfig,
)
from layerscope.data.cifar10 import CLASS_NAMES
from layerscope.data.cifar100 import COARSE, FINE
from layerscope.data.custom import MAX_SIZE
from layerscope.data.preprocessing import Preprocessing
from layerscope.data.synthetic import SIZE
from layerscope.data.view import view_for
from layerscope.training.checkpoints import RunFacts


def preprocessing_of(checkpoint: dict[str, Any]) -> Preprocessing:
    """Return the preprocessing that the checkpoint's network was trained with.

    Raises:
        UserError: it does not follow from the checkpoint's own configuration.
    """
    facts = RunFacts.of(checkpoint)
    preprocessing, config = Preprocessing.from_plain(facts.preprocessing), facts.parsed_config()
    expected = view_for(config.data, config.model, preprocessing.class_names)
    if preprocessing.view != expected or not _is_of(preprocessing, config.data):
        raise UserError(
            "the checkpoint's preprocessing is not that of its own configuration: use one that a "
            "run has written"
        )
    return preprocessing


def _is_of(preprocessing: Preprocessing, data: DataConfig) -> bool:
    """Tell whether classes and size are those that the data set has, as far as that is known."""
    names, size = preprocessing.class_names, preprocessing.stored_size
    if isinstance(data, ImageFolderConfig):
        return size == preprocessing.view.image_size
    if isinstance(data, CustomDataConfig):
        return size <= MAX_SIZE
    if isinstance(data, Cifar100Config):
        return size == SIZE and names == (FINE if data.labels == "fine" else COARSE)
    return size == SIZE and names == CLASS_NAMES
