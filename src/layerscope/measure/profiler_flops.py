"""torch.profiler's `with_flops`, forward and backward, per layer.

torch counts operations by name, wherever they occur, also inside another counted operation (2.15,
read and tried):

- `aten::conv2d`: 2 per multiply-accumulate, right for groups, stride and dilation, without the
  bias. Under autocast it occurs twice, one inside the other, and counts twice. It counts 0 if the
  padding is a string ("same", "valid") or the image has no batch dimension. Convolutions in one or
  three dimensions, transposed convolutions, and the backward of a convolution count 0.
- `aten::addmm`, `aten::mm` (a linear layer with and without bias): 2 per multiply-accumulate, for
  any number of leading dimensions, once, under autocast too. The backward has one `mm` for the
  weight's gradient, and one for the input's if it is computed. The bias's gradient counts 0.
- `aten::bmm`, `aten::baddbmm`: 2 per multiply-accumulate; the backward of a product has two.
- `aten::add`: the elements of its first argument, even if that is the smaller one. The engine's sum
  of two gradients of one tensor counts the gradient's elements if the earlier gradient is a view
  (from the backward of flatten, permute, cat and expand) or is also held elsewhere. Otherwise the
  sum is in place and counts 0. It belongs to the layer whose node delivers the later gradient.
- `aten::mul`: the elements of its first argument. Its backward multiplies the result's gradient by
  the other factor, once for each factor that needs a gradient; each counts the result's elements.
  Active dropout and stochastic depth are such products with a constant.
- Nothing else: no in-place operation (`add_`, `mul_`; the backward of `mul_` is that of `mul`), no
  subtraction or division, no norm, activation or pooling.

Mode, memory format and dtype change nothing else.
"""

from collections import Counter

from layerscope.measure.flop_counter import FlopCounts
from layerscope.measure.profiled_step import ProfiledStep, profile_step
from layerscope.measure.step import Step


def profiler_flops(step: Step) -> FlopCounts:
    """Run the step once under the profiler. The network is left as it was.

    Raises:
        UserError: the network does not run, or a profiler is running already.
    """
    return flops_of(profile_step(step, with_memory=False))


def flops_of(profiled: ProfiledStep) -> FlopCounts:
    """Return the counts of a step that was profiled with FLOPs."""
    forward: Counter[str] = Counter()
    backward: Counter[str] = Counter()
    for (layer, phase), flops in profiled.flops.items():
        if layer is not None and phase != "loss":
            (forward if phase == "forward" else backward)[layer] += flops
    return FlopCounts.of(profiled.layers, forward, backward)
