"""The commands as functions, with the options of the command of the same name as keyword arguments.

`nacdeploy.search(model="resnet8", budget=8)` returns a frozen dataclass (`Result`), `export` a folder, `bench` a table,
`explain` the reasons layer by layer.
Progress goes to a `Progress`, silent by default.
"""

from nacdeploy.jobs.analyze import analyze
from nacdeploy.jobs.code import decode, encode
from nacdeploy.jobs.compress import compress
from nacdeploy.jobs.deploy import bench, export
from nacdeploy.jobs.explain import explain
from nacdeploy.jobs.load import load
from nacdeploy.jobs.report import report
from nacdeploy.jobs.result import Result
from nacdeploy.jobs.search import search
from nacdeploy.jobs.show import show
from nacdeploy.jobs.transfer import finetune, preview, train, transfer
from nacdeploy.jobs.trusting import trust

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
    "load",
    "preview",
    "report",
    "search",
    "show",
    "train",
    "transfer",
    "trust",
]
