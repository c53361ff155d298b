"""A step without memory: its functions, operations and storages, and what autograd saves."""

from layerscope.dry_run.records import (
    FunctionRecord,
    LayerCall,
    OperationRecord,
    Shape,
    StorageRecord,
    TensorRecord,
)
from layerscope.dry_run.saved import SavedStorages, saved_storages
from layerscope.dry_run.step import DryRun, Moment, dry_run

__all__ = [
    "DryRun",
    "FunctionRecord",
    "LayerCall",
    "Moment",
    "OperationRecord",
    "SavedStorages",
    "Shape",
    "StorageRecord",
    "TensorRecord",
    "dry_run",
    "saved_storages",
]
