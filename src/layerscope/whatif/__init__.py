from layerscope.whatif.analyse import Figure, Finding, analyse

__all__ = ["Figure", "Finding", "analyse"]
