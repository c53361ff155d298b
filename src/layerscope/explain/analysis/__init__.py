from layerscope.explain.analysis.analyse import Figure, Finding, analyse

__all__ = ["Figure", "Finding", "analyse"]
