"""What low fidelity saves: the same search with every validation image counted and with as many as decisions need,
and with finetunes at full length and promoted from a quarter of it.

Fashion-MNIST, 1,500 training and 6,000 validation images at 14 px, a ResNet8 of width 8: about three
minutes of one core.
Every search starts from the same baseline; what they answer with is counted on all validation images.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import nacdeploy

PROFILE = """
target = "ort"
model = "resnet8"
width = 8
data = "fashion-mnist"

[images]
n_train = 1500
n_validation = 6000
n_test = 1000
input_size = 14

[train]
epochs = 12
learning_rate = 0.05
batch_size = 64

[finetune]
epochs = 8
learning_rate = 0.02
batch_size = 64
schedule = "cosine"

[prune]
ratio = 0.15
multiple = 2
scope = "uniform"

[quantize]
grid = "ort"
ladder = ["w8a8"]
n_calibration = 256

[settle]
n_images = 512

[search]
alphabet = "FPQ"
budget = 24
max_drop = 1.5

[search.rules]
finetune_due = 1.5
forced_factor = 8.0

[search.fidelity]
subsets = {subsets}
finetune_fraction = {fraction}
"""
VARIANTS = {
    "all images, full finetunes": {"subsets": "false", "fraction": 1.0},
    "as many as decide": {"subsets": "true", "fraction": 1.0},
    "as many as decide, finetunes from a quarter": {"subsets": "true", "fraction": 0.25},
}


def main() -> None:
    """Print one row for each variant."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "baseline.toml").write_text(PROFILE.format(subsets="true", fraction=1.0))
        nacdeploy.search(
            profile=f"{folder}/baseline.toml", runs=f"{folder}/runs", budget=1, max_drop=100.0, wandb=False
        )
        rows = [_row(name, values, Path(folder)) for name, values in VARIANTS.items()]
    print(json.dumps(rows, indent=1))


def _row(name: str, values: dict[str, Any], folder: Path) -> dict[str, Any]:
    profile = folder / f"{len(list(folder.glob('*.toml')))}.toml"
    profile.write_text(PROFILE.format(**values))
    start = time.process_time()
    result = nacdeploy.search(profile=str(profile), runs=folder / "runs", wandb=False)
    lines = (Path(result.folder) / "journal.jsonl").read_text().splitlines()[1:]
    rows = [json.loads(line) for line in lines]
    untrained = [row["figures"]["n_images"] for row in rows if row["figures"] and not row["trained"]][1:]
    return {
        "variant": name,
        "chain": result.chain,
        "bitops_ratio": round(result.figures.bitops_ratio, 2),
        "drop_points": round(result.figures.drop_points, 2),
        "n_validation": result.figures.n_images,
        "evaluations": result.n_evaluations,
        "trainings": result.n_trainings,
        "images of untrained chains": sum(untrained),
        "of": len(untrained) * result.figures.n_images,
        "CPU seconds": round(time.process_time() - start, 1),
        "seconds of evaluations": round(sum(row["seconds"] for row in rows), 1),
        "seconds of those untrained": round(sum(row["seconds"] for row in rows if not row["trained"]), 1),
    }


if __name__ == "__main__":
    main()
