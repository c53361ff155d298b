from layerscope.theory.formulas import Formula
from layerscope.theory.kinds import KINDS, Kind, formulas, macs
from layerscope.theory.table import CostTable, LayerCost, Total, cost_table

__all__ = [
    "KINDS",
    "CostTable",
    "Formula",
    "Kind",
    "LayerCost",
    "Total",
    "cost_table",
    "formulas",
    "macs",
]
