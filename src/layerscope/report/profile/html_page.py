"""profile.html: one file that needs nothing else and fetches nothing."""

import base64
import hashlib
from importlib import resources
from typing import Any

from layerscope.audit import Audit
from layerscope.formatting import (
    at_least,
    bytes_short,
    count_short,
    seconds_short,
)
from layerscope.reconcile.profile import Profile
from layerscope.report.profile.audit import audit_line
from layerscope.report.profile.cells import Table, row_texts
from layerscope.report.profile.charts import layer_bars, roofline
from layerscope.report.profile.conventions import CONVENTIONS
from layerscope.report.profile.findings import (
    bottleneck,
    gap_sentence,
    gaps,
    machine_line,
    peak_lines,
    unexplained_rows,
    verdict,
)
from layerscope.report.profile.layer_views import layer_columns, layer_views, row_view
from layerscope.report.profile.summary import NUM_GAPS, settings_line
from layerscope.report.profile.tables import walkthrough_tables
from layerscope.report.profile.timeline import memory_timeline


def profile_html(profile: Profile, audit: Audit | None = None) -> str:
    """The page. Names from outside are escaped by the template."""
    import jinja2  # only where a page is made
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("layerscope", "report/profile/html"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = _resource("profile.css"), _resource("profile.js")
    charts = {
        name: drawing and Markup(drawing)
        for name, drawing in (
            ("timeline", memory_timeline(profile.peak)),
            ("bars", layer_bars(profile)),
            ("roofline", roofline(profile)),
        )
    }
    return environment.get_template("profile.html.jinja").render(
        **_facts(profile),
        audit=audit,
        audit_line=audit and audit_line(audit),
        **charts,
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def _facts(profile: Profile) -> dict[str, Any]:
    return {
        "network": profile.settings.network,
        "settings": settings_line(profile.settings),
        "notes": profile.notes,
        "verdict": verdict(profile),
        "holds": not unexplained_rows(profile),
        "sentences": [bottleneck(profile), *peak_lines(profile)],
        "tiles": _tiles(profile),
        "gaps": [gap_sentence(gap) for gap in gaps(profile, NUM_GAPS)],
        "columns": layer_columns(profile),
        "layers": layer_views(profile),
        "totals": [row_view(row) for row in profile.totals],
        "tables": [_table_view(table) for table in walkthrough_tables(profile.costs)],
        "machine": machine_line(profile),
        "conventions": CONVENTIONS,
    }


def _tiles(profile: Profile) -> list[tuple[str, str]]:
    """The network in a few figures, each with its unit."""
    total = profile.costs.total()
    kept = [row for row in profile.totals if row.quantity == "saved_bytes"]
    tiles = [
        ("parameters", f"{total.num_parameters:,}"),
        ("forward", at_least(f"{count_short(total.forward_flops)}FLOP", total.lower_bound)),
        ("backward", at_least(f"{count_short(total.backward_flops)}FLOP", total.lower_bound)),
        ("outputs", bytes_short(total.output_bytes)),
        *(("kept for backward", bytes_short(int(row.measured))) for row in kept if row.measured),
    ]
    measured, predicted = profile.peak.measured_bytes, profile.peak.predicted_bytes
    name = "peak, predicted" if measured is None else "peak, measured"
    tiles.append((name, bytes_short(predicted if measured is None else measured)))
    if profile.step is not None:
        tiles.append(("step, median", seconds_short(profile.step.step_seconds.median)))
    return tiles


def _table_view(table: Table) -> dict[str, Any]:
    return {
        "title": table.title,
        "columns": [(column.title, column.is_number) for column in table.columns],
        "rows": [row_texts(table, row) for row in table.rows],
        "total": None if table.total is None else row_texts(table, table.total),
        "note": table.note,
    }


def _resource(name: str) -> str:
    return (resources.files("layerscope.report.profile") / "html" / name).read_text("utf-8")


def _hash(text: str) -> str:
    """By which the page's Content-Security-Policy knows its own style and script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
