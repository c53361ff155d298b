from layerscope.profiling.library import dry_run, profile

__all__ = ["dry_run", "profile"]
