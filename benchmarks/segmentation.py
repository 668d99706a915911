"""Segmentation: torchvision's LRASPP on canvases of garments, from training to INT8, by mean intersection over union.

    python -m benchmarks.segmentation [--folder segmentation-bench] [--chain Q --chain 'P(ratio=0.3)QF' ...]

Every step leaves a folder, and a step whose folder is there is not done again: a run that was killed goes on. One
thread; the float network in ONNX Runtime is what each artifact is timed against, turn by turn. About an hour of a core
for the training of 14 epochs, ten minutes for each chain.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import nacdeploy
from nacdeploy.exporters.bench import Row

ROOT = Path(__file__).parent.parent
TASK: dict[str, Any] = {
    "task": f"{ROOT / 'examples' / 'segmentation.py'}:lraspp",
    "profile": str(ROOT / "examples" / "segmentation.toml"),
    "wandb": False,
}
CHAINS = ("Q", "QF", "P(ratio=0.3)QF")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("segmentation-bench"))
    parser.add_argument("--chain", action="append", default=[])
    asked = parser.parse_args()
    folder, chains = asked.folder, asked.chain or CHAINS
    folder.mkdir(parents=True, exist_ok=True)
    artifacts = [deployed(folder, chain) for chain in chains]
    rows = [as_data(row) for row in nacdeploy.bench(artifacts, threads=1, batch=1).rows]
    (folder / "rows.json").write_text(json.dumps(rows, indent=1))
    for row in rows:
        print(f"{row['chain']:20} mIoU {row['miou']:.4f}  {row['p50_ms']:.3f} ms  {row['speed']}  {row['kib']} KiB")


def trained(folder: Path) -> Path:
    """Return the folder of the float network, trained if it is not there."""
    if not (made := folder / "float").exists():
        nacdeploy.train(**TASK, out=made)
    return made


def deployed(folder: Path, chain: str) -> Path:
    """Return the artifact of a chain, made if it is not there."""
    name = "".join(each if each.isalnum() else "-" for each in chain)
    made, artifact = folder / name, folder / f"{name}.ort"
    if not made.exists():
        nacdeploy.transfer(**TASK, strategy=chain, checkpoint=trained(folder), forecast=False, out=made)
    if not artifact.exists():
        nacdeploy.export(source=made, target="ort", out=artifact, wandb=False)
    return artifact


def as_data(row: Row) -> dict[str, Any]:
    """Return what is reported of an artifact."""
    return {
        "chain": row.chain,
        "miou": row.score,
        "p50_ms": row.latency.p50_ms,
        "speed": str(row.speed),
        "kib": row.model_bytes // 1024,
    }


if __name__ == "__main__":
    main()
