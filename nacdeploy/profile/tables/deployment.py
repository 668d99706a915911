"""The settings of export and bench."""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from nacdeploy.profile.tables.table import Table

_LATER = {"exits": "auto", "gate": "auto", "instances": 1, "queue_delay_us": 100, "license": ""}


class ExportTable(Table):
    opset: int = Field(20, ge=18, le=1000)
    min_agreement: float = Field(0.99, ge=0, le=1)
    min_snr_db: float = 20.0
    n_parity: int = Field(500, ge=1, le=10**9)
    guard: bool = True
    n_autotune_rounds: int = Field(12, ge=3, le=100_000)
    float_type: Literal["fp32", "fp16"] = "fp16"
    io_type: Literal["fp32", "fp16"] = "fp32"
    compute_capabilities: tuple[str, ...] = ("SM80", "SM86", "SM89", "SM120")
    max_batch: int = Field(16, ge=1, le=2**20)
    workspace_mib: int = Field(1024, ge=1, le=2**30)
    exits: Literal["auto", "whole", "segments", "if"] = "auto"
    gate: Literal["auto", "softmax", "entropy", "margin"] = "auto"
    instances: int = Field(1, ge=1, le=4096)
    queue_delay_us: int = Field(100, ge=0, le=10**9)
    license: str = Field("", max_length=200, pattern=r"^[^\r\n]*$")

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Keys that older versions do not know are not written where they say what those did."""
        return {key: value for key, value in write(self).items() if _LATER.get(key) != value}

    @model_validator(mode="after")
    def _types_agree(self) -> "ExportTable":
        if self.io_type == "fp16" and self.float_type == "fp32":
            raise ValueError("io_type = 'fp16' needs float_type = 'fp16'")
        return self


class BenchTable(Table):
    batch_sizes: tuple[Annotated[int, Field(ge=1, le=2**20)], ...] = Field((1,), min_length=1)
    threads: int = Field(1, ge=1, le=4096)
    n_rounds: int = Field(30, ge=3, le=100_000)
    round_ms: float = Field(20.0, gt=0, le=60_000)
