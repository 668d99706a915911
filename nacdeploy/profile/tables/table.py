"""One TOML table."""

from pydantic import BaseModel, ConfigDict


class Table(BaseModel):
    """One TOML table: frozen, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
