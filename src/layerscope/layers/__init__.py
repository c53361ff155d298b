from layerscope.layers.calls import Call, CallObserver, CallTracker, track_calls
from layerscope.layers.untouched import untouched

__all__ = [
    "Call",
    "CallObserver",
    "CallTracker",
    "track_calls",
    "untouched",
]
