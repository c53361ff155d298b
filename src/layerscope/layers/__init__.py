from layerscope.layers.calls import Call, CallObserver, CallTracker, track_calls
from layerscope.layers.derivation import Step, derivation
from layerscope.layers.describe import describe, fake_forward
from layerscope.layers.spec import (
    LayerSpec,
    NetworkSpec,
    Shape,
    StorageSpec,
    TensorSpec,
    calls_by_layer,
    calls_that_matter,
)
from layerscope.layers.untouched import untouched

__all__ = [
    "Call",
    "CallObserver",
    "CallTracker",
    "LayerSpec",
    "NetworkSpec",
    "Shape",
    "Step",
    "StorageSpec",
    "TensorSpec",
    "calls_by_layer",
    "calls_that_matter",
    "derivation",
    "describe",
    "fake_forward",
    "track_calls",
    "untouched",
]
