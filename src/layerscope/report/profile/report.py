"""A profile to look at and to keep."""

from pathlib import Path

from layerscope.audit import Audit
from layerscope.files import write_text
from layerscope.reconcile.profile import Peak, Profile
from layerscope.reconcile.rows import Row
from layerscope.report.profile.records import save_audit, save_profile_csv, save_profile_json
from layerscope.report.profile.summary import show_profile
from layerscope.report.terminal import Screen, TextScreen
from layerscope.theory.table import CostTable


class ProfileReport:
    """What `layerscope.profile` returns: printed, it is a report of 100 columns."""

    def __init__(self, profile: Profile, audit: Audit | None = None) -> None:
        self.profile = profile
        self.audit = audit

    @property
    def rows(self) -> tuple[Row, ...]:
        """One per layer, quantity and instrument."""
        return self.profile.rows

    @property
    def totals(self) -> tuple[Row, ...]:
        """The same of the whole network."""
        return self.profile.totals

    @property
    def costs(self) -> CostTable:
        """The textbook's tables."""
        return self.profile.costs

    @property
    def peak(self) -> Peak:
        """Memory of a step."""
        return self.profile.peak

    def __str__(self) -> str:
        screen = TextScreen()
        show_profile(screen, self.profile, self.audit)
        return screen.text

    def __repr__(self) -> str:
        settings = self.profile.settings
        return f"<ProfileReport of {settings.network}, input {settings.input_shape}>"

    def show(self, screen: Screen) -> None:
        """The same on a screen, with colour where it has any."""
        show_profile(screen, self.profile, self.audit)

    def save(self, directory: str | Path) -> tuple[Path, ...]:
        """profile.json, .csv, .md and .html, and audit.json if there is an audit; each atomically.

        The directory is made. Returns what was written.
        """
        # sympy and jinja2 cost memory that a printed report does not need.
        from layerscope.report.profile.html_page import profile_html
        from layerscope.report.profile.markdown import profile_markdown

        folder = Path(directory)
        paths = [folder / f"profile.{end}" for end in ("json", "csv", "md", "html")]
        save_profile_json(paths[0], self.profile)
        save_profile_csv(paths[1], self.profile)
        write_text(paths[2], profile_markdown(self.profile, self.audit))
        write_text(paths[3], profile_html(self.profile, self.audit))
        if self.audit is not None:
            paths.append(folder / "audit.json")
            save_audit(paths[-1], self.audit)
        return tuple(paths)
