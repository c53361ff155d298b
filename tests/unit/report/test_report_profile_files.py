import csv
import json
import re
from collections import OrderedDict
from dataclasses import replace
from html import escape
from html.parser import HTMLParser

import pytest
import torch
from markdown_it import MarkdownIt
from torch import nn

from layerscope.audit import audit_network, walkthrough
from layerscope.networks.cifar_cnn import CifarCNN
from layerscope.reconcile import Reason, Row
from layerscope.report.profile.records import profile_record
from layerscope.report.profile.report import ProfileReport
from profile_example import EVIL, cifar_cnn_profile, example_audit, profile_of, unmeasured


@pytest.fixture(scope="module")
def profile():
    return cifar_cnn_profile()


@pytest.fixture(scope="module")
def saved(profile, tmp_path_factory):
    """The texts of all files by their names' ends."""
    folder = tmp_path_factory.mktemp("profile") / "made"
    paths = ProfileReport(profile, example_audit()).save(folder)
    assert [path.name for path in paths] == [
        *(f"profile.{end}" for end in ("json", "csv", "md", "html")), "audit.json",
    ]  # fmt: skip
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in paths)
    return {path.name: path.read_text() for path in paths}


@pytest.fixture(scope="module")
def record(saved):
    return json.loads(saved["profile.json"], parse_constant=pytest.fail)


def evil_profile():
    """Layers whose names are markup, formulas of a spreadsheet and more."""
    layers = {EVIL: nn.Conv2d(3, 4, 3), "=1+1": nn.ReLU(), "a|b": nn.ReLU(), "*x* `y`": nn.ReLU()}
    return profile_of(nn.Sequential(OrderedDict(layers)), (2, 3, 8, 8))


def test_the_json_adds_up(record):
    exact = [row for row in record["rows"] if row["instrument"] != "time"]
    for row in (*exact, *record["totals"]):
        reasons = sum(reason["amount"] for reason in row["reasons"])
        assert row["theory"] + reasons == row["predicted"], row
        if row["counted"]:
            assert row["predicted"] + row["unexplained"] == row["measured"], row
        else:
            assert (row["measured"], row["unexplained"]) == (None, None)
    saved = next(row for row in record["totals"] if row["quantity"] == "saved_bytes")
    assert (saved["theory"], saved["measured"]) == (23_872_768, 19_941_120)
    assert saved["lower_bound"] is False
    seconds = record["rows"][-1]
    assert (seconds["quantity"], seconds["theory"], seconds["unexplained"]) == (
        "forward_seconds", None, None,
    )  # fmt: skip
    assert seconds["measured"] > 0
    peak = record["totals"][-1]
    assert (peak["quantity"], peak["unexplained"]) == ("live_peak_bytes", 0)


def test_the_json_has_what_is_promised(record):
    assert list(record) == [
        "format", "settings", "torch_version", "comparisons", "rows", "totals", "peak", "layers",
        "time", "machine", "costs", "other_tools", "tables", "notes",
    ]  # fmt: skip
    assert record["format"] == 2
    assert set(record["comparisons"]) == {
        "num_compared", "num_trivial", "num_unexplained", "num_not_counted", "num_unknown",
    }  # fmt: skip
    assert record["settings"]["input_shape"] == [32, 3, 32, 32]
    assert list(record["rows"][0]) == [
        "layer", "type", "quantity", "instrument", "theory", "theory_not_counted", "reasons",
        "predicted", "measured", "unexplained", "counted",
    ]  # fmt: skip
    assert record["settings"]["optimizer"] == "momentum"
    assert record["peak"]["predicted_live_bytes"] == 21_502_768
    assert set(record["peak"]["largest_batch"][0]) == {
        "memory_bytes", "batch_size", "scratch_bytes",
    }  # fmt: skip
    assert set(record["peak"]["predicted_timeline"][0]) == {
        "layer", "phase", "live_bytes", "bytes_after",
    }  # fmt: skip
    assert record["costs"]["layers"][0]["type"] == "Conv2d"
    assert set(record["time"]["layers"][0]) >= {"layer", "forward_seconds", "backward_seconds"}
    assert record["costs"]["layers"][0]["backward_flops"] == 113_246_208


def test_the_tables_are_the_walkthroughs(record):
    tables = {table["key"]: table for table in record["tables"]}
    assert tables["forward:block1"]["total"]["forward_flops"] == 63_963_136
    assert tables["backward:block3"]["total"]["parameter_gradient_bytes"] == 296_448
    assert tables["forward"]["rows"][0]["layer"] == "input"
    assert tables["forward"]["total"]["output_bytes"] == 24_265_984
    assert tables["backward"]["rows"][0]["layer"] == "fc"
    assert tables["backward"]["total"]["backward_flops"] == 1_334_280_192
    types = {row["type"]: row for row in tables["types"]["rows"]}
    assert round(types["Conv2d"]["forward_share"], 3) == 0.981
    assert tables["parameters"]["total"]["num_parameters"] == 94_986
    for table in tables.values():
        keys = {column["key"] for column in table["columns"]}
        assert all(set(row) <= keys | {"lower_bound"} for row in table["rows"])


def test_the_operations_of_a_layer_add_up_to_it(record, profile):
    saved = {row.layer: row.measured for row in profile.rows if row.instrument == "dry_run"}
    assert [layer["layer"] for layer in record["layers"]] == [
        layer["layer"] for layer in record["costs"]["layers"]
    ]
    for layer in record["layers"]:
        for quantity, cost in (("macs", "macs"), ("flops", "forward_flops")):
            assert sum(each[quantity] for each in layer["operations"]) == layer[cost]
        assert sum(each["saved_bytes"] for each in layer["operations"]) == saved[layer["layer"]]
    first = record["layers"][0]
    assert (first["type"], first["path"]) == ("Conv2d", "block1.conv")
    assert first["operations"] == [
        {
            "name": "aten::convolution",
            "phase": "forward",
            "macs": 28_311_552,
            "flops": 56_623_104,
            "saved_bytes": 4_194_304,
        }
    ]


def test_a_function_that_runs_nothing_still_has_its_cost():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout()).eval()
    _, dropout = profile_record(profile_of(network, (2, 3, 8, 8)))["layers"]
    assert [each["name"] for each in dropout["operations"]] == ["dropout"]
    assert dropout["operations"][0]["flops"] == dropout["forward_flops"] == 2 * 4 * 36


def test_a_total_that_lacks_a_summand_says_so():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.linalg.svdvals(x)

    profile = profile_of(nn.Sequential(nn.Conv2d(3, 4, 3), Odd()), (2, 3, 8, 8))
    table = next(t for t in profile_record(profile)["tables"] if t["key"] == "forward")
    assert table["rows"][-1]["forward_flops"] is None
    assert table["total"]["lower_bound"] == ["forward_flops"]
    types = next(t for t in profile_record(profile)["tables"] if t["key"] == "types")
    assert "svdvals" in types["note"]


def test_what_is_no_number_becomes_null(profile):
    times = (replace(profile.times[0], intensity=float("nan"), flops_per_second=float("inf")),)
    record = profile_record(replace(profile, times=times))
    (layer,) = record["time"]["layers"]
    assert layer["intensity"] is None
    assert layer["flops_per_second"] is None
    assert json.dumps(record, allow_nan=False)


def test_the_csv_has_every_row(saved, record):
    rows = list(csv.DictReader(saved["profile.csv"].splitlines()))
    assert len(rows) == len(record["rows"]) + len(record["totals"])
    assert rows[5]["layer"] == record["rows"][5]["layer"]
    assert list(rows[0]) == [*record["rows"][0], "lower_bound"]
    for row, written in zip((*record["rows"], *record["totals"]), rows, strict=True):
        for name in ("theory", "theory_not_counted", "predicted", "measured", "counted"):
            assert written[name] == ("" if row[name] is None else str(row[name]))


def test_the_audit_is_a_file_of_its_own(saved):
    audit = json.loads(saved["audit.json"])
    cell = audit["cells"][-1]
    assert list(cell)[:4] == ["where", "printed", "right", "verdict"]
    assert [*cell.values()][:4] == ["Total | all", EVIL, "23.8 MB", "wrong"]
    assert set(audit["findings"][0]) == {"claim", "right", "why"}


def test_without_an_audit_there_is_no_file(profile, tmp_path):
    ProfileReport(profile).save(tmp_path)
    assert not (tmp_path / "audit.json").exists()
    assert "walkthrough" not in (tmp_path / "profile.md").read_text()


def test_the_markdown_shows_what_differs_and_counts_the_rest(saved):
    text = saved["profile.md"]
    assert "| **total, input included** |" in text
    assert "-4,194,304 B: the backward pass of block1.relu" in text
    assert "further comparisons agree with the textbook as they are." in text
    assert "4 in tables (3 agree, 0 rounding, 1 wrong)" in text
    assert r"2 \times N \times C_{\text{out}}" in text


def test_names_from_outside_are_only_names(tmp_path):
    ProfileReport(evil_profile()).save(tmp_path)
    page = (tmp_path / "profile.html").read_text()
    assert EVIL not in page
    assert "&lt;script&gt;alert(1)" in page
    rendered = MarkdownIt("commonmark", {"html": True}).enable("table")
    html = rendered.render((tmp_path / "profile.md").read_text())
    assert "<script" not in html
    assert "<em>" not in html
    assert "<code>" not in html
    assert _widths(html) == {1}
    assert ">a|b</td>" in html
    assert html.count(">=1+1</td>") > 5
    for row in csv.reader((tmp_path / "profile.csv").read_text().splitlines()):
        assert not any(cell.startswith(("=", "+", "@", "\t")) for cell in row)


def _widths(html):
    """How many different numbers of cells the rows of each table have."""

    class Tables(HTMLParser):
        def __init__(self):
            super().__init__()
            self.tables = []

        def handle_starttag(self, tag, attrs):
            if tag == "table":
                self.tables.append([])
            elif tag == "tr":
                self.tables[-1].append(0)
            elif tag in ("td", "th"):
                self.tables[-1][-1] += 1

    parser = Tables()
    parser.feed(html)
    assert len(parser.tables) > 5
    return {len(set(rows)) for rows in parser.tables}


def test_the_page_is_one_small_file_with_everything_in(profile, tmp_path):
    audit = audit_network(CifarCNN(), walkthrough())
    ProfileReport(profile, audit).save(tmp_path)
    page = (tmp_path / "profile.html").read_text().replace("\u00a0", " ")
    assert len(page.encode()) < 500_000
    assert all(escape(finding.claim, quote=False) in page for finding in audit.findings)
    assert not re.search(r"https?:|//[a-z]|src=|@import|url\(", page)
    assert "default-src 'none'" in page
    assert page.count("<math") > 30
    assert page.count("<svg") == 3


def test_a_profile_with_nothing_measured_can_be_saved(tmp_path):
    ProfileReport(unmeasured(cifar_cnn_profile())).save(tmp_path)
    page = (tmp_path / "profile.html").read_text().replace("\u00a0", " ")
    assert "not measured" in page
    assert "19.0 MiB" in page  # what is saved, by the dry run
    assert "No instrument ran." in (tmp_path / "profile.md").read_text()


def test_a_network_that_is_one_layer_can_be_saved(tmp_path):
    ProfileReport(profile_of(nn.Linear(3, 4), (2, 3))).save(tmp_path)
    assert "Linear" in (tmp_path / "profile.html").read_text()


def test_what_the_dry_run_alone_tells_is_marked(profile):
    reason = Reason("custom_function", 8, "saved by it", "dry_run")
    row = Row("a", "Own", "saved_bytes", "saved", 0, (reason,), 8)
    (written,) = profile_record(replace(profile, rows=(row,)))["rows"]
    assert written["reasons"] == [
        {"code": "custom_function", "amount": 8, "text": "saved by it", "source": "dry_run"}
    ]
