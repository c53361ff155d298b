from layerscope.layers.calls import Call, CallObserver, CallTracker, track_calls
from layerscope.layers.preserve_state import preserve_state

__all__ = [
    "Call",
    "CallObserver",
    "CallTracker",
    "preserve_state",
    "track_calls",
]
