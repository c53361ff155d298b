"""The table of comparisons: quantity, instrument, prediction with reasons, measurement."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from layerscope.reconcile.account import Account
from layerscope.reconcile.flops import (
    Prediction,
    counter_backward_prediction,
    counter_forward_prediction,
    fvcore_prediction,
    profiler_backward_prediction,
    profiler_forward_prediction,
)
from layerscope.reconcile.measurements import Measurements
from layerscope.reconcile.memory import output_bytes_reasons, saved_bytes_reasons
from layerscope.reconcile.rows import Reason, Row, merged
from layerscope.reconcile.torchinfo import (
    torchinfo_bytes_prediction,
    torchinfo_macs_prediction,
    torchinfo_parameters_prediction,
)

Measured = Mapping[str, int]
Predict = Callable[[Account, str], Prediction]


@dataclass(frozen=True)
class Comparison:
    """A quantity and an instrument that measures it.

    Args:
        predict: predicts the instrument's figure for a layer, from the account alone.
        measured: returns its figures by layer; None if it did not run or could not measure.
    """

    quantity: str
    instrument: str
    predict: Predict
    measured: Callable[[Account, Measurements], Measured | None]


def rows_of(
    comparison: Comparison, account: Account, measurements: Measurements
) -> tuple[Row, ...]:
    """Return a row per layer; no rows if the instrument was not requested.

    An instrument that was requested and could not measure counts nothing of any layer.
    """
    measured = comparison.measured(account, measurements)
    if measured is None:
        was_asked = comparison.instrument in measurements.instruments
        layers = account.layers if was_asked else ()
        return tuple(_uncounted_row(comparison, account, layer) for layer in layers)
    layers = dict.fromkeys(account.layers) | dict.fromkeys(
        layer for layer in (*account.types, *measured) if layer not in account.layers
    )
    rows = (_row(comparison, account, layer, measured) for layer in layers)
    return tuple(row for row in rows if row.layer in account.layers or not row.is_trivial)


def _row(comparison: Comparison, account: Account, layer: str, measured: Measured) -> Row:
    prediction = comparison.predict(account, layer)
    value = measured.get(layer, 0)
    counted = prediction.counted or value != 0
    return Row(
        layer=layer,
        type=account.types.get(layer, ""),
        quantity=comparison.quantity,
        instrument=comparison.instrument,
        theory=_theory(prediction, counted),
        reasons=prediction.reasons,
        measured=value if counted else None,
        theory_not_counted=prediction.not_counted,
        counted=counted,
    )


def _theory(prediction: Prediction, counted: bool) -> int | None:
    """Return the theory of a row; None if the instrument counts something without a formula."""
    is_unknown = counted and not prediction.counted and prediction.not_counted is None
    return None if is_unknown else prediction.theory if counted else 0


def _uncounted_row(comparison: Comparison, account: Account, layer: str) -> Row:
    prediction = comparison.predict(account, layer)
    parts = (prediction.theory, prediction.not_counted)
    return Row(
        layer=layer,
        type=account.types.get(layer, ""),
        quantity=comparison.quantity,
        instrument=comparison.instrument,
        theory=0,
        reasons=(),
        measured=None,
        theory_not_counted=None if None in parts else sum(part or 0 for part in parts),
        counted=False,
    )


def _from_costs(
    field: str, reasons: Callable[[Account, str], Iterable[Reason]] | None = None
) -> Predict:
    """Compare an instrument with a column of the textbook's table."""

    def predict(account: Account, layer: str) -> Prediction:
        cost = account.layers.get(layer)
        theory = 0 if cost is None else getattr(cost, field)
        return Prediction(theory, 0, merged(reasons(account, layer)) if reasons else ())

    return predict


def _parameter_reasons(account: Account, layer: str) -> tuple[Reason, ...]:
    difference = sum(
        call.parameter_bytes - call.num_parameters * account.element_size
        for call in account.calls.get(layer, ())
    )
    text = "its parameters have another dtype than the input"
    return (Reason("parameter_type", difference, text),) if difference else ()


def _outputs(field: str) -> Callable[[Account, Measurements], Measured | None]:
    def measured(account: Account, measurements: Measurements) -> Measured | None:
        record = measurements.activations
        if record is None or "outputs" not in measurements.instruments:
            return None
        return {layer.layer: getattr(layer, field) for layer in record.layers}

    return measured


def _saved(account: Account, measurements: Measurements) -> Measured | None:
    record = measurements.activations
    if record is None or "saved" not in measurements.instruments:
        return None
    return {layer.layer: layer.saved_bytes for layer in record.layers}


def _saved_dry(account: Account, measurements: Measurements) -> Measured | None:
    """Return the bytes that the dry run's hooks saw; None if the prediction comes from them."""
    return None if account.saved is None else saved_by_dry_run(account)


def saved_by_dry_run(account: Account) -> Measured:
    """Return the bytes that the dry run's own hooks saw saved, by layer."""
    found: dict[str, int] = {}
    for storage in {record.storage for record in account.run.saved}:
        layer = account.run.allocating_layer(storage)
        if layer is not None:
            found[layer] = found.get(layer, 0) + account.run.storages[storage].num_bytes
    return found


COMPARISONS: tuple[Comparison, ...] = (
    *(
        Comparison(quantity, "outputs", _from_costs(quantity), _outputs(quantity))
        for quantity in ("output_elements", "num_parameters")
    ),
    Comparison(
        "parameter_bytes",
        "outputs",
        _from_costs("parameter_bytes", _parameter_reasons),
        _outputs("parameter_bytes"),
    ),
    Comparison("buffer_bytes", "outputs", _from_costs("buffer_bytes"), _outputs("buffer_bytes")),
    Comparison(
        "output_bytes",
        "outputs",
        _from_costs("output_bytes", output_bytes_reasons),
        _outputs("output_bytes"),
    ),
    # The textbook saves every output.
    Comparison("saved_bytes", "saved", _from_costs("output_bytes", saved_bytes_reasons), _saved),
    Comparison(
        "saved_bytes", "dry_run", _from_costs("output_bytes", saved_bytes_reasons), _saved_dry
    ),
    *(
        Comparison(
            quantity,
            "fvcore",
            partial(fvcore_prediction, quantity=quantity),
            lambda _, measurements: (
                None if measurements.fvcore is None else measurements.fvcore.layers
            ),
        )
        for quantity in ("macs", "forward_flops")
    ),
    Comparison(
        "macs",
        "torchinfo",
        torchinfo_macs_prediction,
        lambda _, m: None if m.torchinfo is None else m.torchinfo.macs,
    ),
    Comparison(
        "output_bytes",
        "torchinfo",
        torchinfo_bytes_prediction,
        lambda _, m: None if m.torchinfo is None else m.torchinfo.output_bytes,
    ),
    Comparison(
        "num_parameters",
        "torchinfo",
        torchinfo_parameters_prediction,
        lambda _, m: None if m.torchinfo is None else m.torchinfo.num_parameters,
    ),
    Comparison(
        "forward_flops",
        "flop_counter",
        counter_forward_prediction,
        lambda _, m: None if m.flop_counter is None else m.flop_counter.forward,
    ),
    Comparison(
        "backward_flops",
        "flop_counter",
        counter_backward_prediction,
        lambda _, m: None if m.flop_counter is None else m.flop_counter.backward,
    ),
    Comparison(
        "forward_flops",
        "profiler",
        profiler_forward_prediction,
        lambda _, m: None if m.profiler is None else m.profiler.forward,
    ),
    Comparison(
        "backward_flops",
        "profiler",
        profiler_backward_prediction,
        lambda _, m: None if m.profiler is None else m.profiler.backward,
    ),
)


def input_row(account: Account, measurements: Measurements) -> tuple[Row, ...]:
    """Return a row for the network's input, which is in no total."""
    record = measurements.activations
    if record is None or "outputs" not in measurements.instruments:
        return ()
    actual = sum(tensor.num_bytes for tensor in account.run.inputs)
    theory = account.costs.input_bytes
    difference = actual - theory
    reasons = (Reason("wider_type", difference, "it has another dtype"),) if difference else ()
    return (Row("input", "", "output_bytes", "outputs", theory, reasons, record.input_bytes),)
