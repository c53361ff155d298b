from layerscope.explain.kinds.registry import EXPLAINERS, refusal

__all__ = ["EXPLAINERS", "refusal"]
