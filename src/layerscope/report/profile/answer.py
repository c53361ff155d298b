"""The answer of a profile as HTML: what a notebook shows, and where the page begins."""

from collections.abc import Iterable
from html import escape

from layerscope.reconcile.profile import Profile
from layerscope.report.profile.findings import (
    Leaders,
    leaders,
    peak_lines,
    unexplained_line,
    unexplained_rows,
    verdict,
)
from layerscope.report.profile.summary import MAX_UNEXPLAINED, settings_line

_STYLE = (
    ".layerscope{font-variant-numeric:tabular-nums}"
    ".layerscope .verdict{font-weight:600}"
    ".layerscope .leaders{display:flex;flex-wrap:wrap;gap:0 2rem}"
    ".layerscope dt{font-weight:600;float:left;clear:left;margin-right:.5em}"
    ".layerscope dd{margin:0 0 .2em}"
    ".layerscope caption{text-align:left;font-weight:600}"
    ".layerscope td{padding:.1em .8em .1em 0}"
    ".layerscope td.number{text-align:right}"
)


def notebook_html(profile: Profile) -> str:
    """Return the answer with the settings above it and a style of its own."""
    settings = profile.settings
    notes = "".join(f"<p>Note: {escape(note)}.</p>" for note in profile.notes)
    return (
        f'<div class="layerscope"><style>{_STYLE}</style>'
        f"<p><b>Profile of {escape(settings.network)}</b>: {escape(settings_line(settings))}</p>"
        f"{notes}{answer_html(profile)}</div>"
    )


def answer_html(profile: Profile) -> str:
    """Return verdict, peak and the most expensive layers; names from outside are escaped."""
    open_rows = unexplained_rows(profile)
    state = "broken" if open_rows else "holds"
    return "".join(
        (
            f'<p class="verdict {state}">{escape(verdict(profile))}</p>',
            _open_list(unexplained_line(row) for row in open_rows[:MAX_UNEXPLAINED]),
            '<dl class="peak">',
            *(f"<dt>{escape(n)}</dt><dd>{escape(t)}</dd>" for n, t in peak_lines(profile)),
            '</dl><div class="leaders">',
            *(_leaders(each) for each in leaders(profile)),
            "</div>",
        )
    )


def _open_list(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def _leaders(found: Leaders) -> str:
    rows = "".join(
        f'<tr><td>{escape(each.layer)}</td><td class="number">{escape(each.amount)}</td>'
        f'<td class="number">{escape(each.share)}</td></tr>'
        for each in found.layers
    )
    return f"<table><caption>Most {escape(found.title)}</caption><tbody>{rows}</tbody></table>"
