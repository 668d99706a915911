"""A: where ceilings stand, and which values they begin with. No torch here: profiles are read without it."""

from pydantic import Field

from nacdeploy.profile.tables.table import Table
from nacdeploy.strategies.operators.letter import Letter


class ClipTable(Table):
    """`[clip]` of a profile: a ceiling begins at this percentile of what is seen on `n_images` training images, one for
    a tensor or one for each of its channels."""

    percentile: float = Field(99.0, gt=50, le=100)
    n_images: int = Field(256, ge=1)
    by_channel: bool = False


LETTER = Letter("A", "clip", ClipTable, "clipping.operator:Clip")
