from layerscope.measure.activations import (
    ActivationRecord,
    ActivationRecorder,
    LayerActivations,
    record_activations,
)
from layerscope.measure.fvcore import FvcoreCounts, FvcoreFailed, fvcore_counts

__all__ = [
    "ActivationRecord",
    "ActivationRecorder",
    "FvcoreCounts",
    "FvcoreFailed",
    "LayerActivations",
    "fvcore_counts",
    "record_activations",
]
