"""Train a CNN, and account for it.

`layerscope.load(checkpoint)` gives a trained network in eval mode, without importing Lightning.
"""

from layerscope.training.checkpoints import load

__all__ = ["load"]
