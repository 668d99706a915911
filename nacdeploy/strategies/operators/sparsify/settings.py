"""S: the pattern of zeros, and how many."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from nacdeploy.profile.tables.table import Table
from nacdeploy.strategies.operators.letter import Letter


def _below_one(given: float | tuple[float, ...]) -> float | tuple[float, ...]:
    for share in given if isinstance(given, tuple) else (given,):
        if share < 0:
            raise PydanticCustomError("share", "Input should be greater than or equal to 0")
        if share >= 1:
            raise PydanticCustomError("share", "Input should be less than 1")
    if given == ():
        raise PydanticCustomError("share", "A list of shares should hold at least one")
    return given


# A fraction from 0 to below 1, or one for each time that a letter comes.
Stages = Annotated[float | tuple[float, ...], Field(union_mode="left_to_right"), AfterValidator(_below_one)]


class SparsifyTable(Table):
    pattern: Literal["2:4", "element", "kernel", "filter"] = "2:4"
    ratio: Stages = 0.5
    ratios: dict[str, Stages] = Field({})
    patterns: dict[str, Literal["element", "kernel", "filter"]] = Field({})
    importance: Literal["l1", "l2"] = "l1"
    rounding: Literal["floor", "ceil"] = "floor"
    permute: bool = True
    exclude: tuple[str, ...] = ()
    min_channels: int = Field(1, ge=1)


LETTER = Letter("S", "sparsify", SparsifyTable, "nacdeploy.strategies.operators.sparsify.operator:Sparsify")
