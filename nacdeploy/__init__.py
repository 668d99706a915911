"""nacdeploy: find, transfer and deploy chains of network compression techniques.

The public names are resolved on first use, so that `import nacdeploy` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nacdeploy.api import (
        Result,
        analyze,
        bench,
        compress,
        decode,
        encode,
        explain,
        export,
        finetune,
        forecast,
        load,
        optimize,
        package,
        preview,
        report,
        search,
        show,
        train,
        transfer,
        trust,
        tune,
    )
    from nacdeploy.base.errors import NacdeployError, RefusedError, UsageError
    from nacdeploy.brought import Budget, Measure, Task, TrainingSettings
    from nacdeploy.strategies.chain import Chain

_HOMES = {
    **dict.fromkeys(("NacdeployError", "RefusedError", "UsageError"), "nacdeploy.base.errors"),
    "Chain": "nacdeploy.strategies.chain",
    **dict.fromkeys(("Budget", "Measure", "Task", "TrainingSettings"), "nacdeploy.brought"),
}

__all__ = [
    "Budget",
    "Chain",
    "Measure",
    "NacdeployError",
    "RefusedError",
    "Result",
    "Task",
    "TrainingSettings",
    "UsageError",
    "analyze",
    "bench",
    "compress",
    "decode",
    "encode",
    "explain",
    "export",
    "finetune",
    "forecast",
    "load",
    "optimize",
    "package",
    "preview",
    "report",
    "search",
    "show",
    "train",
    "transfer",
    "trust",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'nacdeploy' has no attribute '{name}'")
    return getattr(import_module(_HOMES.get(name, "nacdeploy.api")), name)
