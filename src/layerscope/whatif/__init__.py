from layerscope.whatif.analysis import COLUMNS, Finding, analyse
from layerscope.whatif.runs import Figure, Run
from layerscope.whatif.variants import VARIANTS, Variant, run_variant

__all__ = ["COLUMNS", "VARIANTS", "Figure", "Finding", "Run", "Variant", "analyse", "run_variant"]
