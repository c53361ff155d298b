from layerscope.whatif.analysis import COLUMNS, Finding, analyse
from layerscope.whatif.runs import Run, VariantFigure
from layerscope.whatif.variants import VARIANTS, Variant, run_variant

__all__ = [
    "COLUMNS",
    "VARIANTS",
    "Finding",
    "Run",
    "Variant",
    "VariantFigure",
    "analyse",
    "run_variant",
]
