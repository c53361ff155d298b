from layerscope.theory.table import CostTable, LayerCost, Total, cost_table, sum_if_known
from layerscope.theory.units import CountedUnit, textbook_units

__all__ = [
    "CostTable",
    "CountedUnit",
    "LayerCost",
    "Total",
    "cost_table",
    "sum_if_known",
    "textbook_units",
]
