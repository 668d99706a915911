"""Compression experiments, and what a training script of the user's own needs for one.

    from nacdeploy.experiments import create_compressor, load_config, report_result

The names are resolved on first use, so that reading an experiment's file imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nacdeploy.experiments.driver.reporting import job_main, load_config, report_result
    from nacdeploy.experiments.script.model_compressor import ModelCompressor, create_compressor, restore

_HOMES = {
    **dict.fromkeys(("ModelCompressor", "create_compressor", "restore"), "script.model_compressor"),
    **dict.fromkeys(("job_main", "load_config", "report_result"), "driver.reporting"),
}

__all__ = ["ModelCompressor", "create_compressor", "job_main", "load_config", "report_result", "restore"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nacdeploy.experiments' has no attribute '{name}'")
    return getattr(import_module(f"nacdeploy.experiments.{_HOMES[name]}"), name)
