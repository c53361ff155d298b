"""Train a CNN, and account for it.

`layerscope.profile(model, input_shape=(32, 3, 32, 32))` says what each layer of any module costs,
in theory and measured; `layerscope.dry_run(model, ...)` runs a step on tensors without memory;
`layerscope.compare(a, b)` says where two profiles differ, and why;
`layerscope.explain(model, input_shape)` shows each layer's arithmetic with its own numbers in it;
`layerscope.record_activations(module)` records what a step of one's own loop saves for backward;
`layerscope.load(checkpoint)` gives a trained network in eval mode, and
`layerscope.with_preprocessing(network)` the same for raw pixels;
`layerscope.to_convolutional(model, input_shape)` gives the network that slides over larger images.
None of them imports Lightning. Each is imported when it is first asked for.
`layerscope.callbacks` holds what goes into a Lightning Trainer.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layerscope.base.errors import UserError
    from layerscope.library.compare import compare
    from layerscope.library.explain import explain
    from layerscope.library.profile import dry_run, profile
    from layerscope.library.trained import load, with_preprocessing
    from layerscope.measure import record_activations
    from layerscope.networks.conv_matrix import conv_as_matrix
    from layerscope.networks.convolutional import to_convolutional
    from layerscope.reconcile import INSTRUMENTS

__all__ = [
    "INSTRUMENTS",
    "UserError",
    "compare",
    "conv_as_matrix",
    "dry_run",
    "explain",
    "load",
    "profile",
    "record_activations",
    "to_convolutional",
    "with_preprocessing",
]

_HOMES = {
    "INSTRUMENTS": "layerscope.reconcile",
    "UserError": "layerscope.base.errors",
    "compare": "layerscope.library.compare",
    "conv_as_matrix": "layerscope.networks.conv_matrix",
    "dry_run": "layerscope.library.profile",
    "explain": "layerscope.library.explain",
    "load": "layerscope.library.trained",
    "profile": "layerscope.library.profile",
    "record_activations": "layerscope.measure",
    "to_convolutional": "layerscope.networks.convolutional",
    "with_preprocessing": "layerscope.library.trained",
}


def __getattr__(name: str) -> Any:
    if name == "callbacks":  # in no `__all__`, since it imports Lightning
        return import_module("layerscope.callbacks")
    if name not in _HOMES:
        raise AttributeError(f"module 'layerscope' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


class _Library(ModuleType):
    """Keeps `layerscope.compare`, `.dry_run` and `.explain` the functions, not their packages.

    Importing a package sets it as an attribute here, which would hide the function.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _HOMES or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Library
