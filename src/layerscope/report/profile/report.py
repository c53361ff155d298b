"""A profile to look at and to keep."""

from pathlib import Path
from typing import TYPE_CHECKING

from layerscope.audit import Audit
from layerscope.base.errors import UserError
from layerscope.base.files import write_text
from layerscope.reconcile.profile import Peak, Profile
from layerscope.reconcile.rows import Comparisons, Row
from layerscope.report.audit import save_audit
from layerscope.report.html import fragment, to_page
from layerscope.report.markdown import to_markdown
from layerscope.report.profile.content import (
    input_text,
    notebook_blocks,
    profile_document,
    profile_summary,
)
from layerscope.report.profile.records import (
    save_profile_csv,
    save_profile_json,
    table_columns,
)
from layerscope.report.terminal import Screen, TextScreen
from layerscope.theory.table import CostTable

if TYPE_CHECKING:
    import pandas  # pyright: ignore[reportMissingImports, reportMissingModuleSource]


class ProfileReport:
    """What `layerscope.profile` returns: printed, it is a report of 100 columns."""

    def __init__(self, profile: Profile, audit: Audit | None = None) -> None:
        self.profile = profile
        self.audit = audit

    @property
    def rows(self) -> tuple[Row, ...]:
        """A row per layer, quantity and instrument."""
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

    @property
    def comparisons(self) -> Comparisons:
        """Counts of rows that were compared, and of those that are unexplained."""
        return self.profile.comparisons

    def __str__(self) -> str:
        screen = TextScreen()
        screen.show(*profile_summary(self.profile, self.audit))
        return screen.text

    def __repr__(self) -> str:
        settings = self.profile.settings
        return f"<ProfileReport of {settings.network}, input {input_text(settings.input_shape)}>"

    def _repr_html_(self) -> str:
        """Return the answer, without the tables: what a notebook shows."""
        return fragment(notebook_blocks(self.profile))

    def show(
        self,
        depth: int | None = None,
        *,
        screen: Screen | None = None,
        command: str | None = None,
    ) -> None:
        """Print the report in the terminal's width, with colour where it has any.

        Args:
            depth: of the layer table in the module tree; None: the largest that is not too long.
            command: what shows another depth, with `{}` in its place.

        Raises:
            UserError: the depth is not at least 1.
        """
        if depth is not None and (not isinstance(depth, int) or depth < 1):
            raise UserError(
                f"depth={depth}: give 1 for the topmost modules, 2 for those below, ..."
            )
        named = {} if command is None else {"command": command}
        (screen or Screen()).show(*profile_summary(self.profile, self.audit, depth, **named))

    def to_pandas(self) -> "pandas.DataFrame":
        """Return the rows as a DataFrame, exact counts as nullable integers.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            import pandas  # pyright: ignore[reportMissingImports, reportMissingModuleSource]
        except ImportError as error:
            raise UserError("to_pandas needs pandas: pip install pandas") from error
        columns = table_columns(self.profile.rows)
        return pandas.DataFrame(
            {name: pandas.Series(values, dtype=dtype) for name, dtype, values in columns}
        )

    def save(self, directory: str | Path) -> tuple[Path, ...]:
        """Write profile.json, .csv, .md and .html, and audit.json if there is an audit.

        The directory is made; each file is written whole or not at all. Returns what was written.
        """
        document = profile_document(self.profile, self.audit)
        folder = Path(directory)
        paths = [folder / f"profile.{end}" for end in ("json", "csv", "md", "html")]
        save_profile_json(paths[0], self.profile)
        save_profile_csv(paths[1], self.profile)
        write_text(paths[2], to_markdown(document))
        write_text(paths[3], to_page(document))
        if self.audit is not None:
            paths.append(folder / "audit.json")
            save_audit(paths[-1], self.audit)
        return tuple(paths)
