from layerscope.report.sweep.failures import forget_failure, save_failure

__all__ = ["forget_failure", "save_failure"]
