"""Train a CNN, and account for it.

`layerscope.load(checkpoint)` gives a trained network in eval mode; `layerscope.profile(model,
input_shape=(32, 3, 32, 32))` says what each layer of any module costs, in theory and measured;
`layerscope.explain(model, input_shape)` shows each layer's arithmetic with its own numbers in it;
`layerscope.to_convolutional(model, input_shape)` gives the network that slides over larger images.
None of them imports Lightning.
"""

from layerscope.explaining import explain
from layerscope.networks.conv_matrix import conv_as_matrix
from layerscope.networks.convolutional import to_convolutional
from layerscope.profiling import profile
from layerscope.reconcile import INSTRUMENTS
from layerscope.training.checkpoints import load

__all__ = [
    "INSTRUMENTS",
    "conv_as_matrix",
    "explain",
    "load",
    "profile",
    "to_convolutional",
]
