"""The commands as functions, with the options of the command of the same name as keyword arguments.

`nacdeploy.search(model="resnet8", budget=8)` returns a frozen dataclass (`Result`), `export` a folder, `bench` a table,
`explain` the reasons layer by layer. Progress goes to a `Progress`, silent by default.

The examples in the docstrings run in a folder with a profile of seconds (`tiny.toml`) in which `search`, `transfer` of
QEF and `export` for ONNX Runtime have run (`tests/test_examples.py`).
"""

from nacdeploy.commands.analyze import analyze
from nacdeploy.commands.bench import bench
from nacdeploy.commands.compress import compress
from nacdeploy.commands.decode import decode
from nacdeploy.commands.encode import encode
from nacdeploy.commands.explain import explain
from nacdeploy.commands.export import export
from nacdeploy.commands.finetune import finetune
from nacdeploy.commands.load import load
from nacdeploy.commands.optimize import optimize
from nacdeploy.commands.package import package
from nacdeploy.commands.report import report
from nacdeploy.commands.search import search
from nacdeploy.commands.show import show
from nacdeploy.commands.train import train
from nacdeploy.commands.transfer import forecast, preview, transfer
from nacdeploy.commands.trust import trust
from nacdeploy.commands.tune import tune
from nacdeploy.results.result import Result

__all__ = [
    "Result",
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
