import pytest

from layerscope.base.formatting import (
    amount,
    bytes_exact,
    bytes_short,
    count_exact,
    count_short,
    number,
    rate,
    seconds_short,
    shapes_tuple,
    share,
    wrapped,
)


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1280, "1.25 KiB"), (393_216, "384 KiB"),
     (4_194_304, "4.00 MiB"), (1_073_741_823, "1024 MiB"), (None, "unknown")],
)  # fmt: skip
def test_bytes(num_bytes, text):
    assert bytes_short(num_bytes) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (64, "64"), (999, "999"), (1290, "1.29 k"), (999_600, "1.00 M"),
     (56_623_104, "56.6 M"), (1_334_280_192, "1.33 G"), (0.5, "0.500"), (None, "unknown")],
)  # fmt: skip
def test_counts(count, text):
    assert count_short(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 s"), (2.0, "2.00 s"), (0.0266, "26.6 ms"), (4.5e-5, "45.0 µs"), (3e-9, "3.00 ns"),
     (None, "unknown")],
)  # fmt: skip
def test_seconds(seconds, text):
    assert seconds_short(seconds) == text


@pytest.mark.parametrize(
    ("part", "text"),
    [(0.981, "98.1 %"), (0.0001, "0.01 %"), (0.0, "0.0 %"), (1e-9, "< 0.001 %"), (1.0, "100.0 %"),
     (None, "unknown")],
)  # fmt: skip
def test_shares(part, text):
    assert share(part) == text


def test_exact_figures_and_units():
    assert bytes_exact(19_941_120) == "19,941,120 B (19.0 MiB)"
    assert bytes_exact(4) == "4 B"
    assert count_exact(None) == "unknown"
    assert amount(-1280, "saved_bytes") == "-1,280 B"
    assert amount(5, "num_parameters") == "+5"
    assert amount(None, "macs") == "unknown"
    assert rate(96e9, "FLOP") == "96.0 GFLOP/s"
    assert rate(12.0, "B") == "12 B/s"
    assert rate(None, "B") == "unknown"
    assert number(93.77) == "93.8"
    assert number(1234.5) == "1234"


def test_shapes():
    assert shapes_tuple([(2, 3), (2, 3), (4,)]) == "2 × (2, 3), (4)"


def test_long_lines_are_wrapped_at_spaces_only():
    lines = wrapped("a-long-name.of/a_layer " * 12, "  ").split("\n")
    assert max(map(len, lines)) <= 100
    assert all(line.startswith("  ") for line in lines[1:])
    assert set(" ".join(lines).split()) == {"a-long-name.of/a_layer"}
