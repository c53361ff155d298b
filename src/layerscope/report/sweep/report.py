"""The report of a sweep: its files, and what is shown."""

from pathlib import Path

from layerscope.base.errors import RunFailed
from layerscope.base.files import write_text
from layerscope.report.document import Figure
from layerscope.report.html import to_page
from layerscope.report.markdown import to_markdown
from layerscope.report.sweep.charts import (
    Drawing,
    accuracy_against,
    in_one_file,
    learning_curves,
    on_page,
    sweep_style,
)
from layerscope.report.sweep.content import sweep_document, sweep_summary
from layerscope.report.sweep.records import save_sweep_csv, save_sweep_json
from layerscope.report.sweep.results import SweepResults, sweep_results
from layerscope.report.terminal import Screen

DRAWING = "sweep.svg"


def finish_sweep(directory: Path) -> int:
    """Report on a sweep that has ended; RunFailed.exit_code if a job has no results."""
    sweep = sweep_results(directory, has_ended=True)
    save_sweep(directory, sweep)
    show_sweep(Screen(), directory, sweep)
    return 0 if len(sweep.with_status("finished")) == len(sweep.runs) else RunFailed.exit_code


def save_sweep(directory: Path, sweep: SweepResults) -> None:
    """Write sweep.json, .csv, .md, .html and .svg, each whole or not at all."""
    against = [drawing for cost in sweep.costs if (drawing := accuracy_against(sweep, cost))]
    curves = learning_curves(sweep)
    save_sweep_json(directory / "sweep.json", sweep)
    save_sweep_csv(directory / "sweep.csv", sweep)
    page = sweep_document(sweep, _figures(against), _figures(curves))
    write_text(directory / "sweep.html", to_page(page, sweep_style()))
    drawings = (*against, *curves)
    if drawings:
        write_text(directory / DRAWING, in_one_file(f"Sweep {sweep.name}", drawings))
    file = Figure("; ".join(drawing.title for drawing in drawings), "", DRAWING)
    text = sweep_document(sweep, [file] if drawings else [], [])
    write_text(directory / "sweep.md", to_markdown(text))


def _figures(drawings: tuple[Drawing, ...] | list[Drawing]) -> list[Figure]:
    return [Figure(drawing.title, on_page(drawing)) for drawing in drawings]


def show_sweep(screen: Screen, directory: Path, sweep: SweepResults) -> None:
    """Print the best settings, what failed, and where the files are."""
    screen.show(*sweep_summary(sweep))
    screen.say(f"saved: {directory / 'sweep.html'}, .md, .svg, .csv, .json")
