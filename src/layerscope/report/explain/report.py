"""An explanation to look at and to keep."""

from pathlib import Path

from layerscope.explain.explanation import Explanation
from layerscope.explain.values import Value
from layerscope.report.explain.document import write_document
from layerscope.report.explain.records import save_explain_json
from layerscope.report.explain.summary import show_explanation
from layerscope.report.terminal import Screen, TextScreen


class ExplanationReport:
    """What `layerscope.explain` returns: printed, it is the table of values."""

    def __init__(self, explanation: Explanation) -> None:
        self.explanation = explanation

    @property
    def values(self) -> tuple[Value, ...]:
        """Of all layers, then the loss's."""
        return self.explanation.values

    def value(self, layer: str, name: str) -> Value:
        """By its layer's key and its name, `y[0,0,1,1]`.

        Raises:
            KeyError: there is none.
        """
        for value in self.values:
            if (value.layer, value.name) == (layer, name):
                return value
        raise KeyError(f"{layer} {name}")

    def __str__(self) -> str:
        screen = TextScreen()
        show_explanation(screen, self.explanation)
        return screen.text

    def __repr__(self) -> str:
        settings = self.explanation.settings
        return f"<ExplanationReport of {settings.network}, input {settings.input_shape}>"

    def show(self, screen: Screen) -> None:
        """The same on a screen, with colour where it has any."""
        show_explanation(screen, self.explanation)

    def save(self, directory: str | Path) -> tuple[Path, ...]:
        """explain.json, .md, .html and .svg, each atomically; the directory is made.

        Returns what was written.
        """
        folder = Path(directory)
        path = folder / "explain.json"
        save_explain_json(path, self.explanation)
        return (path, *write_document(folder, self.explanation))
