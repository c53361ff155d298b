from layerscope.callbacks.activation_memory import ActivationMemory

__all__ = ["ActivationMemory"]
