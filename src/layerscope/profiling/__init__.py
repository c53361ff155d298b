from layerscope.profiling.library import profile

__all__ = ["profile"]
