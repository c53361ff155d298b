"""Tensors without memory that the network's code keeps after a dry run."""

import functools
import gc

from torch import nn

# torch has no public name for tensors without memory that keep their device.
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from layerscope.base.errors import UserError
from layerscope.dry_run.recorder import Recorder


def empty_caches(network: nn.Module, recorder: Recorder, mode: FakeTensorMode) -> bool:
    """Remove tensors without memory from caches outside of modules; tell whether there were any.

    They are removed from a dict, a list or a functools cache: the code makes the tensors again.

    Raises:
        UserError: something else keeps one, and would return it in place of a real tensor.
    """
    if not recorder.holds_memory:
        return False
    gc.collect()
    if not recorder.holds_memory:
        return False
    _take_all_out(mode)
    gc.collect()
    if recorder.holds_memory:
        raise UserError(
            f"{type(network).__name__} keeps a tensor of this run outside of its modules, where it "
            "cannot be put back: let it keep the tensor as a buffer or an attribute of a module"
        )
    return True


def _take_all_out(mode: FakeTensorMode) -> None:
    held = [t for t in gc.get_objects() if type(t) is FakeTensor and t.fake_mode is mode]
    for tensor in held:
        _take_out(tensor, held)


def _take_out(tensor: FakeTensor, held: list[FakeTensor]) -> None:
    for holder in gc.get_referrers(tensor):
        if holder is held:
            continue
        if isinstance(holder, functools._lru_cache_wrapper):
            holder.cache_clear()
        elif isinstance(holder, dict):
            for key in [key for key, value in holder.items() if value is tensor]:
                del holder[key]
        elif isinstance(holder, list):
            holder[:] = [value for value in holder if value is not tensor]
