from layerscope.theory.table import CostTable, LayerCost, Total, cost_table
from layerscope.theory.units import Unit, textbook_units

__all__ = ["CostTable", "LayerCost", "Total", "Unit", "cost_table", "textbook_units"]
