"""The record that a run's activation_memory.json holds."""

import csv
import json

import pytest

from layerscope.measure import ActivationRecord, LayerActivations
from layerscope.report.activation_table import ActivationTable


def record(peak_bytes):
    layer = LayerActivations("conv", 1, 8, 4, 4, 2, 3, 12, 0)
    return ActivationRecord((layer,), input_bytes=16, peak_bytes=peak_bytes)


def table(directory):
    return ActivationTable(directory, "32-true")


def written(directory):
    memory = json.loads((directory / "activation_memory.json").read_text())
    with (directory / "activation_memory.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    return memory["step"], memory["totals"]["peak_bytes"], steps


def test_without_an_allocator_the_first_record_stands(tmp_path):
    records = table(tmp_path)
    assert (records.has_records, records.has_peak) == (False, False)
    for step in (0, 5):
        records.add(step, 32, record(None))
    assert written(tmp_path) == (0, None, [0, 5])


@pytest.mark.parametrize("is_resumed", [False, True])
def test_the_first_peak_takes_its_place_and_stays(tmp_path, is_resumed):
    """The first step of a process on a GPU has no peak: it allocates the libraries' workspaces."""
    records = table(tmp_path)
    records.add(0, 32, record(None))
    if is_resumed:
        records = table(tmp_path)
        records.resume(1)
    assert (records.has_records, records.has_peak) == (True, False)
    records.add(1, 32, record(700))
    assert records.has_peak
    records.add(5, 32, record(900))
    assert written(tmp_path) == (1, 700, [0, 1, 5])
    again = table(tmp_path)
    again.resume(6)
    assert again.has_peak


def test_a_record_of_a_step_that_is_repeated_is_not_kept(tmp_path):
    records = table(tmp_path)
    records.add(3, 32, record(700))
    again = table(tmp_path)
    again.resume(3)
    assert (again.has_records, again.has_peak) == (False, False)
