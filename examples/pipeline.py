"""A pipeline: search, export, gate, package, verify. Where the gate fails: exit code 1, one line, no package.

    python examples/pipeline.py --data digits --profile demo --require 'drop<=1' --require 'speedup>=1.2' --out release

`release/` then holds the result, the artifact, bench.json, report.html and artifact.tar.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import nacdeploy
from nacdeploy.base import records
from nacdeploy.base.errors import NacdeployError
from nacdeploy.commands.verify import verify
from nacdeploy.exporters.gates import GateError


def main() -> int:
    """Run the pipeline and return its exit code."""
    given = vars(_parser().parse_args())
    out, target, require = Path(given.pop("out")), given.pop("target"), given.pop("require")
    try:
        _run(out, target, require or ["drop<=1"], given)
    except NacdeployError as error:
        print(f"pipeline: {error}", file=sys.stderr)
        return 1
    return 0


def _run(out: Path, target: str | None, require: list[str], search: dict[str, Any]) -> None:
    found = nacdeploy.search(out=out / "search", **search)
    trackers = {name: search[name] for name in ("wandb", "mlflow")}
    artifact = nacdeploy.export(source=found.folder, target=target, out=out / "artifact", **trackers)
    try:
        table = nacdeploy.bench([artifact], require=require)
    except GateError as error:
        records.write_json(out / "bench.json", error.table)  # the figures of what is not shipped
        raise
    records.write_json(out / "bench.json", table)
    nacdeploy.report(found.folder, out / "report.html", artifact=artifact, bench=table)
    packaged = nacdeploy.package(artifact, out / "artifact.tar")
    verify(packaged.path)
    print(f"{packaged.path}: {found.chain}, {packaged.n_bytes} bytes, sha256 {packaged.sha256}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name in ("model", "data", "checkpoint", "target"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--budget", type=int, help="chains to evaluate")
    parser.add_argument("--require", action="append", help="as of bench; 'drop<=1' by default")
    parser.add_argument("--out", default="release")
    parser.add_argument("--runs", default="runs")
    for name in ("wandb", "mlflow"):
        parser.add_argument(f"--{name}", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
