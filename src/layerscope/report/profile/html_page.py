"""profile.html: one file that needs nothing else and fetches nothing."""

import base64
import hashlib
from importlib import resources
from typing import Any

from layerscope.audit import Audit
from layerscope.base.formatting import amount, share
from layerscope.reconcile.profile import Profile
from layerscope.report.audit import audit_line
from layerscope.report.profile.answer import answer_html
from layerscope.report.profile.cells import Table, row_texts
from layerscope.report.profile.charts import layer_bars, roofline
from layerscope.report.profile.conventions import CONVENTIONS
from layerscope.report.profile.findings import (
    key_figures,
    machine_line,
    reason_groups,
    slowest_line,
)
from layerscope.report.profile.layer_views import layer_columns, layer_views
from layerscope.report.profile.lines import LayerLine, layer_lines, tree_depth
from layerscope.report.profile.row_text import row_text
from layerscope.report.profile.summary import layer_figures, settings_line
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
    from markupsafe import Markup

    return {
        "network": profile.settings.network,
        "settings": settings_line(profile.settings),
        "notes": profile.notes,
        "answer": Markup(answer_html(profile)),
        "tiles": key_figures(profile),
        "slowest": slowest_line(profile),
        "reasons": _reasons(profile),
        "columns": layer_columns(profile),
        "layers": layer_views(profile),
        "folded": _folded_tables(profile),
        "totals": [row_text(row) for row in profile.totals],
        "tables": [_table_view(table) for table in walkthrough_tables(profile.costs)],
        "machine": machine_line(profile),
        "conventions": CONVENTIONS,
    }


def _reasons(profile: Profile) -> list[tuple[str, ...]]:
    """Return quantity, instruments, code, layers, amount, share and words of each reason."""
    return [
        (
            *(group.quantity, ", ".join(group.instruments), group.code),
            *(f"{len(group.layers):,}", amount(group.amount, group.quantity), share(group.share)),
            group.text,
        )
        for group in reason_groups(profile)
    ]


_FOLDED_COLUMNS = (
    *(("module", False), ("layers", False), ("output of one sample", False), ("parameters", True)),
    *(("output", True), ("saved", True), ("forward FLOPs", True), ("backward FLOPs", True)),
)


def _folded_tables(profile: Profile) -> list[dict[str, Any]]:
    """Return the layer table at each depth at which it is shorter."""
    columns = [*_FOLDED_COLUMNS, *([("time", True)] if profile.times else [])]
    deepest = tree_depth(profile)
    return [
        {
            "title": f"Folded at depth {depth} of {deepest}",
            "columns": columns,
            "rows": [_folded_row(line)[: len(columns)] for line in layer_lines(profile, depth)],
        }
        for depth in range(1, deepest)
    ]


def _folded_row(line: LayerLine) -> list[str]:
    return [line.name, *(" ".join(cell.split()) for cell in layer_figures(line))]


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
    """Return the sum by which the page's Content-Security-Policy knows its style and script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
