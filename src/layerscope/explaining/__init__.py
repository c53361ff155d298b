from layerscope.explaining.library import explain

__all__ = ["explain"]
