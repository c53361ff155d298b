"""Every kind of layer that can be explained, by the names of layers/ and theory/.

EXPLAINERS["my_op"] = Explainer(formulas=..., output=..., input_gradient=..., first_input=...)
"""

from layerscope.explain.convolution import CONVOLUTION
from layerscope.explain.elementwise import RELU
from layerscope.explain.explainer import Explainer
from layerscope.explain.linear import LINEAR
from layerscope.layers.spec import LayerSpec

EXPLAINERS: dict[str, Explainer] = {
    **{f"conv{dims}d": CONVOLUTION for dims in (1, 2, 3)},
    "linear": LINEAR,
    "relu": RELU,
}


def refusal(spec: LayerSpec) -> str | None:
    """Why there is no explanation of this call; None where there is one."""
    explainer = EXPLAINERS.get(spec.kind)
    if explainer is None:
        return f"no explanation is written for a layer of kind {spec.kind}"
    return explainer.refuses(spec)
