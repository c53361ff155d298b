"""What can be chosen of an explanation, on a command line and in a call alike."""

from typing import Annotated

from pydantic import Field

from layerscope.config.schema import Positive, Section

Index = Annotated[int, Field(ge=0)]
Place = Annotated[tuple[Index, ...], Field(min_length=1)] | None


class Choice(Section):
    """See docs/reference.md."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    layer: str | None
    position: Place
    input_position: Place
    weight_position: Place
    target: Index
    learning_rate: Positive
