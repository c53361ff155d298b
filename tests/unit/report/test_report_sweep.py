"""The report of a sweep, from folders as jobs leave them."""

import csv
import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

from layerscope.base.errors import UserError
from layerscope.commands.report_sweep import finish_sweep
from layerscope.report.sweep import save_failure
from layerscope.report.sweep.report import save_sweep, show_sweep
from layerscope.report.sweep.results import pareto_front, sweep_results
from layerscope.report.terminal import Screen
from sweep_example import begin_job, make_job

SVG = "{http://www.w3.org/2000/svg}"


def plan(directory, *overrides):
    """Write the file that Hydra's own sweeper leaves."""
    own = {"sweeper": {"_target_": "a.BasicSweeper"}, "overrides": {"task": list(overrides)}}
    (directory / "multirun.yaml").write_text(yaml.safe_dump({"hydra": own}))


def report(directory, has_ended=False):
    """Return the records and the page's text after a report."""
    save_sweep(directory, sweep_results(directory, has_ended))
    records = json.loads((directory / "sweep.json").read_text())
    return {record["folder"]: record for record in records}


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_how_a_command_went_on_is_no_difference_between_its_jobs(tmp_path, capsys):
    make_job(tmp_path / "0", ["width=1", "data=synthetic"], 0.5)
    make_job(
        tmp_path / "1", ["width=2", "data=synthetic", "resume=auto", "+allow_changes=true"], 0.25
    )
    (tmp_path / "2").mkdir()
    save_failure(tmp_path / "2", ["width=3", "data=synthetic", "resume=auto"], "a reason")
    assert finish_sweep(tmp_path) == 1
    records = json.loads((tmp_path / "sweep.json").read_text())
    assert [record["overrides"] for record in records] == [
        [f"width={number}", "data=synthetic"] for number in (1, 2, 3)
    ]
    assert "resume" not in (tmp_path / "sweep.csv").read_text()
    shown = capsys.readouterr().out
    assert "width=2" in shown
    assert "failed: job 2, a reason" in shown
    assert "resume" not in shown
    assert "data=synthetic" not in shown


def test_seeds_are_taken_together(tmp_path):
    """Deviations by hand: of 0.5 and 0.7 it is 0.1 √2, of 0.4, 0.5, 0.6 it is 0.1."""
    for number, (width, seed, accuracy) in enumerate(
        [(1, 0, 0.4), (1, 1, 0.5), (1, 2, 0.6), (2, 0, 0.5), (2, 7, 0.7), (4, 0, 0.3)]
    ):
        make_job(tmp_path / str(number), [f"width={width}", f"seed={seed}"], accuracy, size=width)
    records = report(tmp_path)
    figures = {
        name: (record["num_seeds"], record["val/acc_mean"], record["val/acc_std"])
        for name, record in records.items()
    }
    assert figures["0"] == figures["1"] == (3, pytest.approx(0.5), pytest.approx(0.1))
    assert figures["3"] == (2, pytest.approx(0.6), pytest.approx(0.1 * 2**0.5))
    assert figures["5"] == (1, 0.3, None)
    assert records["0"]["setting"] == ["width=1"]
    assert records["0"]["pareto"] == ["num_parameters", "macs", "saved_bytes"]
    assert records["3"]["pareto"] == ["num_parameters", "macs", "saved_bytes", "seconds"]
    assert records["5"]["pareto"] == []
    text = (tmp_path / "sweep.md").read_text()
    assert "| width=4 | 1 | 30.00 % | unknown |" in text
    rows = rows_of(tmp_path / "sweep.csv")
    assert [(row["width"], row["seed"]) for row in rows][:2] == [("2", "7"), ("1", "2")]
    assert "overrides" not in rows[0]
    assert next(row for row in rows if row["job"] == "5")["val/acc_std"] == ""


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([], set()),
        ([(1, 0.5)], {0}),
        ([(1, 0.5), (1, 0.6)], {1}),
        ([(1, 0.5), (2, 0.5)], {0}),
        ([(1, 0.5), (1, 0.5)], {0, 1}),
        ([(3, 0.9), (1, 0.5), (2, 0.4), (2, 0.7)], {0, 1, 3}),
    ],
)
def test_the_front_holds_what_nothing_beats(points, front):
    assert pareto_front(points) == front
    beaten = {
        place
        for place, (cost, accuracy) in enumerate(points)
        if any(c <= cost and a >= accuracy and (c, a) != (cost, accuracy) for c, a in points)
    }
    assert front == set(range(len(points))) - beaten


def test_what_has_not_finished_is_said(tmp_path, capsys):
    """A sweep that still runs, its jobs in folders of their own choice."""
    plan(tmp_path, "model=a,b", "seed=range(2)", "resume=auto")
    make_job(tmp_path / "a/0", ["model=a", "seed=0"], 0.5)
    begin_job(tmp_path / "a/1", ["model=a", "seed=1"], [0.1, 0.2, 0.3])
    with (tmp_path / "a/1/metrics.csv").open("a") as file:
        file.write("3,3,2.")  # a row that is being written
    make_job(tmp_path / "a/0/evaluation", ["this=is", "no=job"], 0.9)
    (tmp_path / "b/0").mkdir(parents=True)
    save_failure(tmp_path / "b/0", ["model=b", "seed=0"], "it broke")
    records = report(tmp_path)
    assert {name: record["status"] for name, record in records.items()} == {
        "a/0": "finished", "a/1": "unfinished", "b/0": "failed", None: "not begun",
    }  # fmt: skip
    assert records[None]["overrides"] == ["model=b", "seed=1"]
    assert records[None]["job"] is None
    assert records["a/1"]["epochs"] == 3
    assert records["a/1"]["val/acc"] is None
    assert [records[name]["num_seeds"] for name in ("a/0", "b/0")] == [1, 0]
    text = (tmp_path / "sweep.md").read_text()
    assert "4 runs of 2 settings: 1 finished, 1 failed, 1 unfinished, 1 not begun" in text
    assert "[b/0](./b/0)" in text
    # Once it has ended, what has no results has failed.
    assert finish_sweep(tmp_path) == 1
    ended = json.loads((tmp_path / "sweep.json").read_text())
    assert [record["status"] for record in ended].count("failed") == 2
    assert "not finished: 1 of 4 jobs" in capsys.readouterr().out


def test_jobs_of_an_earlier_version(tmp_path, capsys):
    """They were stopped before they had results."""
    files = Path(__file__).parents[2] / "frozen/files"
    for number, name in enumerate(("stopped_after_epoch", "stopped_within_epoch")):
        shutil.copytree(files / name, tmp_path / str(number))
    sweep = sweep_results(tmp_path, has_ended=False)
    show_sweep(Screen(), tmp_path, sweep)
    assert "no run has finished" in capsys.readouterr().out
    save_sweep(tmp_path, sweep)
    records = json.loads((tmp_path / "sweep.json").read_text())
    costs = {(r["num_parameters"], r["macs"], r["saved_bytes"], r["epochs"]) for r in records}
    assert costs == {(124, 2352, 39936, 1)}
    assert {record["status"] for record in records} == {"unfinished"}


def test_each_point_leads_to_its_run(tmp_path):
    make_job(tmp_path / "lr=0.1,x y#?/0", ["lr=0.1", "seed=0"], 0.5)
    make_job(tmp_path / "lr=0.1,x y#?/1", ["lr=0.1", "seed=1"], 0.6)
    report(tmp_path)
    tree = ET.parse(tmp_path / "sweep.svg")
    links = {link.get("href") for link in tree.iter(f"{SVG}a")}
    assert links == {f"./lr%3D0.1%2Cx%20y%23%3F/{seed}" for seed in (0, 1)}
    # Four known costs of two runs, and two learning curves of each.
    assert len(list(tree.iter(f"{SVG}a"))) == 4 * 2 + 2 * 2
    assert (tmp_path / "sweep.html").read_text().count('href="./lr%3D0.1') >= 12


def test_a_cost_that_is_not_known_is_unknown(tmp_path):
    make_job(tmp_path / "0", ["width=1"], 0.5, lower_bound=True)
    make_job(tmp_path / "1", ["width=2"], 0.6)
    records = report(tmp_path)
    assert records["0"]["macs_lower_bound"]
    assert "macs" not in records["0"]["pareto"]
    assert records["0"]["peak_bytes"] is None
    text = (tmp_path / "sweep.md").read_text()
    assert "measured peak of a step: unknown for 2 settings" in text
    assert "FLOPs per image, forward (2 per MAC): unknown for 1 setting," in text
    assert "&gt;= 20" in text


def test_one_instrument_measures_the_peak_of_all(tmp_path):
    make_job(tmp_path / "0", ["width=1"], 0.5)
    make_job(tmp_path / "1", ["width=2"], 0.6)
    for name, measured in (("0", 1000), ("1", 3000)):
        record = {"peak": {"measured_bytes": measured}}
        (tmp_path / name / "profile.json").write_text(json.dumps(record))
    assert "profile_peak_bytes" in report(tmp_path)["1"]["pareto"]
    make_job(tmp_path / "2", ["width=3"], 0.7, peak=500)
    records = report(tmp_path)
    assert "peak_bytes" in records["2"]["pareto"]
    assert not any("profile_peak_bytes" in record["pareto"] for record in records.values())


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("results.json", "{"),
        ("results.json", "[" * 100_000),
        ("results.json", '{"val/acc": NaN, "test/acc": 0.5, "train_seconds": 1.0}'),
        ("results.json", '{"val/acc": "0.5", "test/acc": 0.5, "train_seconds": 1.0}'),
        ("run.json", '{"command": []}'),
        ("layers.json", '{"totals": {"num_parameters": -1, "macs": 1e400}}'),
        ("failure.json", '{"overrides": [1], "reason": "x"}'),
        ("metrics.csv", "epoch,val/acc\n" + "9" * 200_000 + ',"\n'),
    ],
)
def test_a_damaged_job_hides_no_other(tmp_path, file, content):
    make_job(tmp_path / "0", ["width=1", "data=synthetic"], 0.5)
    make_job(tmp_path / "1", ["width=2", "data=synthetic"], 0.6)
    (tmp_path / "1" / file).write_text(content)
    records = report(tmp_path)
    assert records["1"]["status"] == "failed"
    assert file in records["1"]["reason"]
    assert records["0"]["setting"] == ["width=1", "data=synthetic"]
    assert records["0"]["status"] == "finished"


@pytest.mark.parametrize(
    "text",
    ["", "- 1", "hydra: {sweeper: {_target_: x.Optuna}, overrides: {task: [seed=0]}}",
     "hydra: {sweeper: {_target_: x.BasicSweeper}, overrides: {task: ['seed=range(1000000000)']}}",
     "hydra: {sweeper: {_target_: x.BasicSweeper}, overrides: {task: ['model=glob(*)', '((']}}"],
)  # fmt: skip
def test_a_plan_that_nobody_knows_adds_nothing(tmp_path, text):
    make_job(tmp_path / "0", ["width=1"], 0.5)
    (tmp_path / "multirun.yaml").write_text(text)
    assert list(report(tmp_path)) == ["0"]


def test_what_is_no_sweep_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no job"):
        sweep_results(tmp_path, False)
    with pytest.raises(UserError, match="no directory"):
        sweep_results(tmp_path / "missing", False)
    make_job(tmp_path / "0", [], 0.5)
    with pytest.raises(UserError, match="holds one run"):
        sweep_results(tmp_path / "0", False)
