"""python tests/mutants.py [WORD ...]

Break the accounts in one place after another, and tell what notices: the small networks, by a row
that is unexplained or unknown (`net`); the numbers worked out by hand (`hand`); the figures of an
earlier version (`frozen`); what autograd saves by hooks and by its specification (`saved`); a dry
run against the real one (`run`); tests of the specification and of strides (`test`). It prints a
table and exits with 1 if a mutant survives all. A rule that none of our networks meets is `not
met`: neither a catch nor a survivor.

With words, only mutants whose names contain one of them. The networks run once, under all
instruments; a mutant changes what is worked out from that. It takes some minutes.
"""

import ast
import functools
import importlib
import inspect
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import FunctionType
from typing import Any
from unittest import mock

import torch

HERE = Path(__file__).parent
for folder in ("frozen", "unit/dry_run", "unit/operations", "unit/reconcile"):
    sys.path.insert(0, str(HERE / folder))

import test_dry_run_specification  # noqa: E402
import test_dry_run_strides  # noqa: E402
from frozen_differences import differences, run_of  # noqa: E402
from hand_worked import WORKED, figures_of  # noqa: E402
from hand_worked import run_of as run_of_worked  # noqa: E402
from small_networks import CALLS, NETWORKS, VARIANTS, Small  # noqa: E402
from test_reconcile_networks import UNKNOWN_FLOPS  # noqa: E402

from layerscope import operations  # noqa: E402
from layerscope.dry_run import DryRun, fake, in_place, recorder, saved, saved_storages  # noqa: E402
from layerscope.dry_run import step as step_module  # noqa: E402
from layerscope.dry_run.specification import OperationSaves, SaveRule, specification  # noqa: E402
from layerscope.measure import Step  # noqa: E402
from layerscope.operations import family as family_module  # noqa: E402
from layerscope.operations import profiler  # noqa: E402
from layerscope.operations.family import Cost, Family  # noqa: E402
from layerscope.reconcile import EXACT_INSTRUMENTS, CallArguments, ProfileSettings  # noqa: E402
from layerscope.reconcile.account import account  # noqa: E402
from layerscope.reconcile.comparisons import COMPARISONS, rows_of  # noqa: E402
from layerscope.reconcile.measurements import Measurements, measure  # noqa: E402
from layerscope.reconcile.peak import live_peak_bytes  # noqa: E402
from layerscope.reconcile.rows import Row  # noqa: E402
from layerscope.reconcile.settings import dry_run_of, prepared  # noqa: E402

FROZEN = (
    *("cifar_cnn", "cifar_cnn/bf16_autocast", "cifar_cnn/bfloat16", "cifar_cnn/eval", "alexnet"),
    *("convnext_tiny", "mobilenet_v3_small", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1"),
)


# What is broken ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Args:
        broken: while it is entered, the fault is there.
        concerns: tells by names (families, functions, operations) which networks it may show in.
        runs: what a dry run writes down is different, so that it has to run again.
        test: a test elsewhere that ought to fail.
        lies: changes what instruments saw of one network.
    """

    name: str
    broken: Callable[[], AbstractContextManager[Any]] = nullcontext
    concerns: Callable[[frozenset[str]], bool] | None = None
    runs: bool = False
    test: Callable[[], object] | None = None
    lies: Callable[[Measurements], Iterator[Measurements]] | None = None


def plus_one(value: Any) -> Any:
    """Return one more; of named sizes, of the first; of nothing, nothing."""
    if isinstance(value, Mapping):
        first = next(iter(value), None)
        return {key: size + (key == first) for key, size in value.items()}
    return value if value is None else value + 1


@contextmanager
def code_changed(function: FunctionType, change: Callable[[Any], Any]) -> Iterator[None]:
    """Change what a function returns, for all who hold it already."""
    before = function.__code__, function.__defaults__, function.__kwdefaults__
    original = FunctionType(before[0], function.__globals__, function.__name__, before[1])
    original.__kwdefaults__ = before[2]
    function.__globals__["_change_of_mutant"] = lambda *a, **k: change(original(*a, **k))
    names: dict[str, Any] = {}
    exec("def mutant(*a, **k): return _change_of_mutant(*a, **k)", names)
    function.__code__ = names["mutant"].__code__
    function.__defaults__ = function.__kwdefaults__ = None
    try:
        yield
    finally:
        function.__code__, function.__defaults__, function.__kwdefaults__ = before
        del function.__globals__["_change_of_mutant"]


@contextmanager
def field_changed(record: Any, field: str, value: Any) -> Iterator[None]:
    """Change a field of a frozen record."""
    before = getattr(record, field)
    object.__setattr__(record, field, value)
    try:
        yield
    finally:
        object.__setattr__(record, field, before)


def submodules() -> list[Any]:
    """Return the files of `operations`."""
    package = Path(inspect.getfile(operations)).parent
    names = sorted(path.stem for path in package.glob("*.py") if path.stem != "__init__")
    return [importlib.import_module(f"layerscope.operations.{name}") for name in names]


def formula_mutants() -> Iterator[Mutant]:
    """One more in each function of `operations` that returns a number, or sizes."""
    for module in submodules():
        if module.__name__.endswith(".shapes"):
            continue  # it is not of the accounts, and has a test of its own
        for name, function in vars(module).items():
            if not isinstance(function, FunctionType) or function.__module__ != module.__name__:
                continue
            returns = function.__annotations__.get("return")
            is_formula = name.endswith(("_macs", "_flops"))
            if returns in (int, int | None, family_module.SizesByName) or is_formula:
                label = f"{module.__name__.rpartition('.')[2]}.{name} + 1"
                yield Mutant(label, functools.partial(code_changed, function, plus_one))


def families() -> dict[int, Family]:
    """Return every family by identity."""
    known = [*operations._BY_FUNCTION.values(), *operations._BY_OPERATION.values()]
    return {id(family): family for family in known}


def family_mutants() -> Iterator[Mutant]:
    """One more in each cost and count of each family; counts and properties turned."""

    def changed(family: Family, field: str, value: Any, label: str) -> Mutant:
        names = {*map("unit {}".format, (*family.functions, *family.operations))}
        title = (family.functions or family.operations)[0]
        return Mutant(
            f"family {title}: {label}",
            functools.partial(field_changed, family, field, value),
            lambda met: not names.isdisjoint(met),
        )

    for family in families().values():
        for field in ("macs", "forward", "input_gradient", "weight_gradient", "bias_gradient"):
            cost = getattr(family, field)
            if cost is not None:
                more = Cost(lambda _f=cost.function, **sizes: _f(**sizes) + 1, cost.sizes)
                yield changed(family, field, more, f"{field} + 1")
        for field in ("fvcore", "profiler"):
            count = getattr(family, field)
            if count is None:
                more = lambda call: call.output_elements  # noqa: E731
                if family.functions and not family.is_view and field == "fvcore":
                    yield changed(family, field, more, f"{field} of its output")
                continue
            yield changed(family, field, lambda call, _f=count: plus_one(_f(call)), f"{field} + 1")
            yield changed(family, field, None, f"no {field}")
        if family.fvcore is not None:
            beyond = lambda call, _f=family.fvcore_beyond: _f(call) + 1  # noqa: E731
            yield changed(family, "fvcore_beyond", beyond, "fvcore_beyond + 1")
        if family.bias_gradient is not None:
            yield changed(family, "has_bias", lambda call: False, "no bias")
        if family.matrices:
            yield changed(family, "matrices", (), "no product")
        if family.profiler_backward:
            yield changed(family, "profiler_backward", False, "no profiler_backward")
        if family.functions:
            yield changed(family, "is_view", not family.is_view, f"is_view {not family.is_view}")


def rule_mutants() -> Iterator[Mutant]:
    """One more in each counter's rule for an operation; each rule, and each name in a set, gone."""
    rules = {
        "dispatcher": operations._DISPATCHER,
        "profiler": profiler._FORMULAS,
        "profiler inside": profiler._INSIDE,
    }
    for table, entries in rules.items():
        for name, rule in list(entries.items()):
            base = name.partition(".")[0]
            more = {name: lambda call, _f=rule: _f(call) + 1}
            yield Mutant(
                f"{table} {name} + 1",
                functools.partial(mock.patch.dict, entries, more),
                lambda met, _n=base: _n in met,
            )
            rest = {key: value for key, value in entries.items() if key != name}
            yield Mutant(
                f"{table} {name} gone",
                functools.partial(mock.patch.dict, entries, rest, clear=True),
                lambda met, _n=base: _n in met,
            )
    costs = operations.costs
    sets = (
        *((profiler, "_DOUBLED"), (costs, "MOVES"), (costs, "_POINTWISE")),
        (sys.modules["layerscope.reconcile.flops"], "TRACED_APART"),
    )
    for module, attribute in sets:
        for name in sorted(getattr(module, attribute)):
            rest = getattr(module, attribute) - {name}
            yield Mutant(
                f"{attribute.strip('_').lower()} without {name}",
                functools.partial(_another_set, module, attribute, rest),
                lambda met, _n=name: bool(met & {f"loose {_n}", f"loose {_n}_", f"within {_n}"}),
            )


@contextmanager
def _another_set(module: Any, attribute: str, names: frozenset[str]) -> Iterator[None]:
    """Put another set in place; what was remembered of the old one is forgotten."""
    with mock.patch.object(module, attribute, names):
        operations.costs._is_pointwise.cache_clear()
        yield
    operations.costs._is_pointwise.cache_clear()


def specification_mutants(met: frozenset[str]) -> Iterator[Mutant]:
    """Each row of the specification that the networks meet: an entry gone, or one too many."""
    table = specification()
    assert table is not None
    schemas = {
        f"{s.name}.{s.overload_name}".rstrip("."): s for s in torch._C._jit_get_all_schemas()
    }
    for name in sorted(met & table.keys()):
        row = table[name]
        found = [
            (f"less {entry.argument or f'result {entry.result}'}", _without(row, entry))
            for entry in row.saves
        ]
        saved_names = {entry.argument for entry in row.saves}
        tensors = [a.name for a in schemas[name].arguments if str(a.type) == "Tensor"]
        found += [
            (f"more {argument}", _with(row, argument))
            for argument in tensors
            if argument not in saved_names and row.differentiable
        ]
        for label, changed in found:
            more = {**table, name: changed}
            yield Mutant(
                f"specification {name}: {label}",
                functools.partial(_specified, more),
                lambda names, _n=name: _n in names,
                test=functools.partial(_test_of_row, name.removeprefix("aten::")),
            )


@contextmanager
def _specified(table: Mapping[str, OperationSaves]) -> Iterator[None]:
    with (
        mock.patch.object(saved, "specification", return_value=table),
        mock.patch.object(test_dry_run_specification, "specification", return_value=table),
    ):
        yield


def _test_of_row(name: str) -> None:
    if name in test_dry_run_specification.CASES:
        test_dry_run_specification.test_table_lists_what_torch_saves(name)


def _test_of_strides(operation: Any) -> None:
    fake._remembered.clear()
    if operation in test_dry_run_strides.OPERATIONS:
        test_dry_run_strides.test_strides(operation)


def _without(row: OperationSaves, entry: SaveRule) -> OperationSaves:
    return replace(row, saves=tuple(other for other in row.saves if other is not entry))


def _with(row: OperationSaves, argument: str) -> OperationSaves:
    return replace(row, saves=(*row.saves, SaveRule("input", argument, None, None, False)))


def mend_mutants() -> Iterator[Mutant]:
    """Each mend of what fake tensors do otherwise, gone."""
    for module, attribute in (
        *((fake, "_STORAGES"), (fake, "_STRIDES"), (fake, "_STATISTICS")),
        *((in_place, "_WRITES_INTO_ZEROS"), (fake, "_BAGS")),
    ):
        entries = getattr(module, attribute)
        for entry in list(entries):
            rest: Any = (
                {key: entries[key] for key in entries if key is not entry}
                if isinstance(entries, dict)
                else entries - {entry}
            )
            name = entry._schema.name
            yield Mutant(
                f"mend {attribute.strip('_').lower()} without {entry.name()}",
                functools.partial(mock.patch.object, module, attribute, rest),
                lambda met, _n=name: _n in met or f"{_n}_" in met,
                runs=True,
                test=functools.partial(_test_of_strides, entry),
            )
    for attribute in ("_COMPUTES_IN_PLACE", "_ZEROS"):
        entries = getattr(in_place, attribute)
        for entry in sorted(entries):
            yield Mutant(
                f"mend {attribute.strip('_').lower()} without {entry}",
                functools.partial(mock.patch.object, in_place, attribute, entries - {entry}),
                runs=True,
            )
    turned: dict[str, tuple[Any, str, Any]] = {
        "numbers take no memory": (recorder.Recorder, "_number_bytes", lambda *_: 0),
        "numbers are never saved": (recorder.Recorder, "_saved_numbers", lambda *_: 0),
        "nothing is overwritten": (in_place.InPlaceRules, "overwrites", lambda *_: False),
        "no bias is added in place": (in_place.InPlaceRules, "_adds_in_place", lambda *_: False),
        "no random state": (recorder.Recorder, "know_new", lambda *_: None),
        "every gradient is exclusive": (in_place, "_is_exclusive", lambda _: True),
        "no gradient is exclusive": (in_place, "_is_exclusive", lambda _: False),
        "every gradient is dense": (in_place, "_is_dense", lambda _: True),
        "no gradient is dense": (in_place, "_is_dense", lambda _: False),
        "no mask": (fake, "is_mask", lambda _: False),
        "LSTMs are taken apart": (step_module, "fused_layers", lambda _: nullcontext()),
        "no functions are opened": (recorder, "opened", lambda _: None),
    }
    for name, (owner, attribute, value) in turned.items():
        broken = functools.partial(mock.patch.object, owner, attribute, value)
        yield Mutant(f"mend: {name}", broken, runs=True)


def instrument_mutants() -> Iterator[Mutant]:
    """Each instrument wrong by one in one layer, whichever it is."""
    fields = ("output_elements", "num_parameters", "parameter_bytes", "buffer_bytes")
    for field in (*fields, "output_bytes", "saved_bytes"):
        yield Mutant(f"instrument {field}", lies=functools.partial(_lying_outputs, field))
    for instrument, attribute in (
        ("fvcore", "layers"),
        *(("flop_counter", phase) for phase in ("forward", "backward")),
        *(("profiler", phase) for phase in ("forward", "backward")),
    ):
        lies = functools.partial(_lying_counter, instrument, attribute)
        yield Mutant(f"instrument {instrument} {attribute}", lies=lies)
    yield Mutant("instrument memory", lies=_lying_memory)


def _lying_outputs(field: str, measured: Measurements) -> Iterator[Measurements]:
    record = measured.activations
    assert record is not None
    for number, layer in enumerate(record.layers):
        wrong = replace(layer, **{field: getattr(layer, field) + 1})
        layers = (*record.layers[:number], wrong, *record.layers[number + 1 :])
        yield replace(measured, activations=replace(record, layers=layers))


def _lying_counter(
    instrument: str, attribute: str, measured: Measurements
) -> Iterator[Measurements]:
    counts = getattr(measured, instrument)
    if counts is None:
        return
    values = getattr(counts, attribute)
    for layer in values:
        wrong = {**values, layer: values[layer] + 1}
        yield replace(measured, **{instrument: replace(counts, **{attribute: wrong})})


def _lying_memory(measured: Measurements) -> Iterator[Measurements]:
    """The block that is allocated last before the peak is larger by one byte."""
    record = measured.memory
    assert record is not None
    most = live_peak_bytes(record)
    for number, block in enumerate(record.blocks):
        larger = replace(block, num_bytes=block.num_bytes + 1)
        blocks = (*record.blocks[:number], larger, *record.blocks[number + 1 :])
        wrong = replace(record, blocks=blocks)
        if live_peak_bytes(wrong) != most:
            yield replace(measured, memory=wrong)
            return


# What notices ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evidence:
    """A small network that ran once.

    Args:
        met: names of its operations, with and without overload; of what the textbook counts
            (`unit add`), those without a family (`loose add`), and functions (`within add`).
        again: runs it dry once more.
    """

    name: str
    settings: ProfileSettings
    run: DryRun
    measured: Measurements
    met: frozenset[str]
    again: Callable[[], DryRun]

    def rows(self, measured: Measurements | None = None) -> list[Row]:
        """Return today's comparisons."""
        theory = account(self.run, self.settings.element_size)
        measured = measured or self.measured
        return [row for comparison in COMPARISONS for row in rows_of(comparison, theory, measured)]

    def is_accounted_for(self, measured: Measurements | None = None) -> bool:
        """Tell whether nothing is unexplained or unknown."""
        theory = account(self.run, self.settings.element_size)
        unknown = {unit.name for unit in theory.units if None in unit.costs.counts.values()}
        return unknown <= UNKNOWN_FLOPS and not any(
            row.counted and (row.unexplained or row.predicted is None)
            for row in self.rows(measured)
        )


def evidence(networks: Mapping[str, Small], variants: bool = True) -> Iterator[Evidence]:
    """Run each network under all instruments."""
    for name, small in networks.items():
        for variant in ("float32", *(small.variants if variants else ())):
            call = (
                CallArguments((torch.randn(small.shape),)) if small.call is None else small.call()
            )
            options = dict(VARIANTS[variant])
            as_it_is = "dtype" not in options and "channels_last" not in options
            if small.call is None and as_it_is:
                call.args[0].requires_grad_(variant == "input_gradient")
            shape = small.shape or call.description
            settings = ProfileSettings(name, shape, as_it_is=as_it_is, **options)
            given = None if small.call is None and not as_it_is else call
            with prepared(small.build(), settings, given) as step:
                run = dry_run_of(step, settings)
                measured = measure(step, settings, EXACT_INSTRUMENTS)
            names = {operation.name for operation in run.operations}
            names |= {operation.base_name for operation in run.operations}
            names |= {f"within {function.name}" for function in run.functions}
            names |= names_of_units(run)
            again = functools.partial(_run_again, step, settings)
            yield Evidence(f"{name}, {variant}", settings, run, measured, frozenset(names), again)


def names_of_units(run: DryRun) -> set[str]:
    """Return the names of what the textbook counts, and apart those without a family."""
    units = account(run, 4).units
    loose = {f"loose {unit.name}" for unit in units if unit.family is None}
    return loose | {f"unit {unit.name}" for unit in units}


def _run_again(step: Step, settings: ProfileSettings) -> DryRun:
    fake._remembered.clear()
    return dry_run_of(step, settings)


def signature(run: DryRun, is_float32: bool) -> Any:
    """Return what tests compare of a dry run with a real one."""
    saved_by_layer: Counter[str | None] = Counter()
    for storage in {record.storage for record in run.saved}:
        saved_by_layer[run.allocating_layer(storage)] += run.storages[storage].num_bytes
    if not is_float32:
        return saved_by_layer
    return (
        run.live_peak_bytes,
        saved_by_layer,
        [
            (
                *(operation.name, operation.layer, operation.is_accumulation),
                *(
                    (t.strides, t.dtype, run.storages[t.storage].num_bytes)
                    for t in operation.outputs
                ),
            )
            for operation in run.operations
        ],
    )


class Judges:
    """Everything that has run once, and notices a mutant."""

    def __init__(
        self,
        networks: Mapping[str, Small],
        worked: tuple[str, ...] = tuple(WORKED),
        frozen: tuple[str, ...] = FROZEN,
        variants: bool = True,
    ) -> None:
        self.net = list(evidence(networks, variants))
        self.worked = {name: run_of_worked(WORKED[name]) for name in worked}
        self.frozen = {name: run_of(name) for name in frozen}
        others = (*self.worked.values(), *self.frozen.values())
        self._met_elsewhere = frozenset().union(*map(names_of_units, others))
        self._signatures = {
            e.name: signature(e.run, e.settings.dtype == "float32") for e in self.net
        }

    @property
    def saving(self) -> frozenset[str]:
        """Names of the operations that autograd may save something of."""
        return frozenset(
            operation.name
            for evidence in self.net
            for operation in evidence.run.operations
            if operation.is_recorded and operation.is_saving
        )

    def notice(self, mutant: Mutant) -> list[str]:
        """Return the judges that notice it."""
        if mutant.lies is not None:
            return ["net"] if self._notice_lies(mutant.lies) else []
        concerns = mutant.concerns or (lambda names: True)
        concerned = [e for e in self.net if concerns(e.met)]
        with mutant.broken():
            found = {"test": mutant.test is not None and _fails(lambda: mutant.test() or True)}
            if mutant.runs:
                found["run"] = any(map(self._runs_otherwise, concerned))
                noticed = [judge for judge, notices in found.items() if notices]
                return noticed or ([] if concerned else ["not met"])
            if not concerned and not concerns(self._met_elsewhere):
                return ["test"] if found["test"] else ["not met"]
            found |= {
                "net": any(_fails(lambda e=e: e.is_accounted_for()) for e in concerned),
                "saved": any(_fails(lambda e=e: _saved_as_specified(e.run)) for e in concerned),
                "hand": any(
                    _fails(lambda n=n, r=r: figures_of(r) == WORKED[n].expected(r))
                    for n, r in self.worked.items()
                ),
                "frozen": any(
                    _fails(lambda n=n, r=r: differences(n, r) == []) for n, r in self.frozen.items()
                ),
            }
        return [judge for judge, notices in found.items() if notices]

    def _runs_otherwise(self, evidence: Evidence) -> bool:
        is_float32 = evidence.settings.dtype == "float32"
        before = self._signatures[evidence.name]
        return _fails(lambda: signature(evidence.again(), is_float32) == before)

    def _notice_lies(self, lies: Callable[[Measurements], Iterator[Measurements]]) -> bool:
        """Tell whether each lie about each network is noticed, and there is one at all."""
        wrong = [
            (evidence, measured)
            for evidence in self.net[:: max(1, len(self.net) // 30)]
            if evidence.settings.dtype == "float32"
            for measured in lies(evidence.measured)
        ]
        return bool(wrong) and all(
            not evidence.is_accounted_for(measured) or _other_peak(evidence, measured)
            for evidence, measured in wrong
        )

    def reasons(self) -> Counter[str]:
        """Count the compared rows that each reason's code stands in, with an amount."""
        return Counter(
            reason.code
            for evidence in self.net
            for row in evidence.rows()
            if row.is_compared
            for reason in row.reasons
            if reason.amount
        )


def _other_peak(evidence: Evidence, measured: Measurements) -> bool:
    assert evidence.measured.memory is not None
    assert measured.memory is not None
    return live_peak_bytes(measured.memory) != live_peak_bytes(evidence.measured.memory)


def _fails(check: Callable[[], bool]) -> bool:
    try:
        return not check()
    except Exception:  # noqa: BLE001  a test would fail by it too
        return True


def _saved_as_specified(run: DryRun) -> bool:
    found = saved_storages(run)
    return found is not None and found.storages == {record.storage for record in run.saved}


def reason_codes() -> set[str]:
    """Return the codes that the code gives reasons: the first argument, a code beside its text."""
    package = Path(inspect.getfile(operations)).parents[1]
    codes: set[str] = set()
    for path in (*(package / "reconcile").glob("*.py"), package / "operations/words.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and node.args:
                called = ast.unparse(node.func)
                if called in ("Reason", "_reason", "SavedRole"):
                    codes.update(_strings(node.args[0]))
            if (
                isinstance(node, ast.Return)
                and isinstance(node.value, ast.Tuple)
                and node.value.elts
            ):
                codes.update(_strings(node.value.elts[0]))
    return codes


def _strings(node: ast.expr) -> set[str]:
    return {node.value} if isinstance(node, ast.Constant) and isinstance(node.value, str) else set()


# Faults that change nothing, or nothing on a CPU, each with the reason.
_NOT_COUNTED = "no counter has a formula for it"
_IN_TEST = "a test of test_reconcile_exact.py"
ACCEPTED: dict[str, str] = {
    **{f"family {name}: no product": _NOT_COUNTED for name in ("mv", "dot", "vdot", "addmv")},
    **dict.fromkeys(
        (
            "products._kernel_backward_flops + 1",
            "dispatcher aten::_scaled_dot_product_flash_attention_for_cpu_backward + 1",
        ),
        "that it is counted matters; how much, the reason `scores_again` tells",
    ),
    **{
        f"moves without aten::{name}": "met on integers and in losses alone, which cost nothing"
        for name in ("clone", "equal", "new_ones", "scalar_tensor")
    },
    **{
        f"mend writes_into_zeros without aten::{name}": "no known formula of torch 2.15 calls it"
        for name in ("index_copy", "masked_fill.Tensor", "scatter.value")
    },
    "specification aten::linalg_householder_product: less input": "linalg.qr saves it too",
    "family mul: no profiler_backward": _IN_TEST,
    "reason dry_run": _IN_TEST,
}


def all_mutants(judges: Judges) -> Iterator[Mutant]:
    """Yield every mutant."""
    yield from formula_mutants()
    yield from family_mutants()
    yield from rule_mutants()
    yield from specification_mutants(judges.saving)
    yield from mend_mutants()
    yield from instrument_mutants()


def main(words: list[str]) -> int:
    """Print a table of all mutants; return 1 if one survives."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    began = time.perf_counter()
    judges = Judges({**NETWORKS, **CALLS})
    print(
        f"{len(judges.net)} runs of small networks, {time.perf_counter() - began:.0f} s", flush=True
    )
    survivors, by_judge, num_mutants = [], Counter[str](), 0
    for mutant in all_mutants(judges):
        if words and not any(word in mutant.name for word in words):
            continue
        num_mutants += 1
        noticed = judges.notice(mutant)
        by_judge.update(noticed or ["nobody"])
        accepted = ACCEPTED.get(mutant.name)
        if not noticed and accepted is None:
            survivors.append(mutant.name)
        print(f"{mutant.name:70} {', '.join(noticed) or accepted or 'SURVIVES'}", flush=True)
    met = judges.reasons()
    for code in sorted(reason_codes() if not words else ()):
        num_mutants += 1
        if met[code]:
            by_judge["net"] += 1
        elif f"reason {code}" not in ACCEPTED:
            survivors.append(f"reason {code}")
        print(f"reason {code:63} {met[code]} rows")
    print(f"{num_mutants} mutants, {len(survivors)} survive; noticed by", dict(by_judge))
    print(*survivors, sep="\n")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
