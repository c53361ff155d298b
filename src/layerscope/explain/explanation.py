"""Everything that is said of a network's arithmetic: what the documents and explain.json read."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from layerscope.audit import Audit
from layerscope.config.schema import CrossEntropyConfig, LossConfig
from layerscope.dry_run import Shape
from layerscope.explain.all_numbers import Numbers
from layerscope.explain.explainer import GeneralFormula
from layerscope.explain.values import Position, Value
from layerscope.networks.layer_calls import DescribedCall, NetworkCalls
from layerscope.theory import CostTable, LayerCost
from layerscope.whatif import Finding

PLAIN_CROSS_ENTROPY = CrossEntropyConfig(name="cross_entropy", label_smoothing=0.0)


@dataclass(frozen=True)
class ExplainSettings:
    """What is explained.

    Args:
        network: its name, for the reports.
        input_shape: with N.
        dtype: of the network: `float32`, `float64` or `bfloat16`.
        train: None leaves every submodule in the mode that it has.
        layer: whose values are explained; None for all layers. A position can only be chosen
            together with a layer.
        position: of the layer's output.
        input_position: at which dL/dx is explained.
        weight_position: at which dL/dw is explained, and updated.
        loss: what is differentiated.
        target: the class that the loss compares every image with.
        learning_rate: of the updates.
        origin: where weights and image come from, (key, value) as a reader should see them.
        class_names: of the network's outputs; empty where they are not known.
    """

    network: str
    input_shape: Shape
    dtype: str = "float32"
    train: bool | None = None
    layer: str | None = None
    position: Position | None = None
    input_position: Position | None = None
    weight_position: Position | None = None
    loss: LossConfig = PLAIN_CROSS_ENTROPY
    target: int = 0
    learning_rate: float = 0.01
    origin: tuple[tuple[str, str], ...] = ()
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class LayerExplanation:
    """One layer, explained by its first call.

    The values of a quantity are in order: what is computed on the way first, the value itself last.
    They are empty where there is nothing to say: the layer has no weight, another layer was asked
    for (`is_chosen` is false), or `refused`.

    Args:
        cost: the textbook's, of all calls.
        formulas: for every position; empty where there is no explanation.
        position: of the output; None where the values are empty, as the positions that follow.
        num_calls: of this layer in one forward pass.
        refused: why there is no explanation.
        note: what a reader has to know, in sentences.
        bias_removed_by: the batch norm in train mode that alone reads the output: it subtracts the
            mean, and with it the layer's bias.
    """

    key: str
    spec: DescribedCall
    cost: LayerCost
    formulas: tuple[GeneralFormula, ...] = ()
    position: Position | None = None
    input_position: Position | None = None
    weight_position: Position | None = None
    bias_position: Position | None = None
    output_values: tuple[Value, ...] = ()
    input_gradient_values: tuple[Value, ...] = ()
    weight_gradient_values: tuple[Value, ...] = ()
    bias_gradient_values: tuple[Value, ...] = ()
    num_calls: int = 1
    is_chosen: bool = True
    refused: str | None = None
    note: str = ""
    bias_removed_by: str | None = None

    @property
    def values(self) -> tuple[Value, ...]:
        """Values of output, input gradient, weight gradient and bias gradient; each once."""
        values = (
            *self.output_values,
            *self.input_gradient_values,
            *self.weight_gradient_values,
            *self.bias_gradient_values,
        )
        return tuple({value.name: value for value in reversed(values)}.values())[::-1]


@dataclass(frozen=True, eq=False)
class LossExplanation:
    """The loss L, the mean over the batch, and its gradient of the network's outputs.

    Args:
        kind: `cross_entropy` or `mse`.
        target: the class of each image, (N,).
        values: `layer` of each is `loss`.
    """

    kind: str
    target: tuple[int, ...]
    label_smoothing: float
    formulas: tuple[GeneralFormula, ...]
    values: tuple[Value, ...]


@dataclass(frozen=True, eq=False)
class Update:
    """What one step of an optimizer makes of one parameter's element.

    Args:
        layer: its key.
        parameter: `weight` or `bias`.
        position: in the parameter.
        values: what is computed on the way first, the new parameter last (`w_new[...]`,
            `b_new[...]`); `actual` is torch.optim's.
    """

    layer: str
    parameter: Literal["weight", "bias"]
    position: Position
    optimizer: Literal["sgd", "adam"]
    learning_rate: float
    formulas: tuple[GeneralFormula, ...]
    values: tuple[Value, ...]


@dataclass(frozen=True, eq=False)
class Explanation:
    """What is said of one network and one training step.

    Args:
        network: the module itself, in the dtype and with the weights that were explained; its modes
            are those that it had before.
        specs: every call of every layer.
        costs: the textbook's tables, at the element size of the dtype.
        layers: in the order of their first calls; all of them, whichever was asked for.
        updates: SGD's and Adam's, of the weight and the bias of every layer that is explained.
        analysis: what the Analysis section of the documents says (whatif/).
        audit: of the walkthrough, where it is about this network and this input.
        numbers: all of one image and of the weights, where these are few.
        picture: PNG, what was explained; None for what is no photo.
    """

    settings: ExplainSettings
    network: nn.Module
    specs: NetworkCalls
    costs: CostTable
    layers: tuple[LayerExplanation, ...]
    loss: LossExplanation
    updates: tuple[Update, ...] = ()
    analysis: tuple[Finding, ...] = ()
    audit: Audit | None = None
    numbers: tuple[Numbers, ...] = ()
    picture: bytes | None = None

    @property
    def network_name(self) -> str:
        """For titles."""
        return self.settings.network

    @property
    def input_shape(self) -> Shape:
        """With N."""
        return self.settings.input_shape

    @property
    def values(self) -> tuple[Value, ...]:
        """Layer by layer, then the loss's; without the updates'."""
        return (
            *(value for layer in self.layers for value in layer.values),
            *self.loss.values,
        )

    @property
    def refused_types(self) -> tuple[str, ...]:
        """Types of the layers that were asked for and have no explanation, each once."""
        return tuple(
            dict.fromkeys(layer.spec.type for layer in self.layers if layer.refused is not None)
        )

    def layer(self, key: str) -> LayerExplanation:
        """Return a layer by its key."""
        return next(layer for layer in self.layers if layer.key == key)

    def updates_of(self, key: str) -> tuple[Update, ...]:
        """Return the updates of one layer."""
        return tuple(update for update in self.updates if update.layer == key)
