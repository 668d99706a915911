"""make bench-mixed: chains that mix letters of all four older systems, each exported, theory and time side by side.

A chain that is refused stands in the table with its reason. Ratios are FP32 baseline / now; bytes are of the model file
against the FP32 export's, and of the coded container where the chain ends in C.
"""

from pathlib import Path

import nacdeploy
from nacdeploy.base import records
from nacdeploy.base.errors import RefusedError
from nacdeploy.cli.render import RichProgress

PROFILE = str(Path(__file__).with_suffix(".toml"))
FOLDER = Path("bench-run") / "mixed"
CHAINS = ("DFPQF", "PSQF", "QPDF", "DPFEQFC")


def applied(chain: str, progress: RichProgress) -> nacdeploy.Result | str:
    """The chain's result, made before or now; the reason where it is refused."""
    folder = FOLDER / chain
    if (folder / "result.json").is_file():
        return records.read(nacdeploy.Result, folder / "result.json")
    try:
        return nacdeploy.transfer(
            strategy=chain, profile=PROFILE, runs=FOLDER, out=folder, wandb=False, progress=progress
        )
    except RefusedError as error:
        return str(error)


def main() -> None:
    progress = RichProgress()
    results = {chain: applied(chain, progress) for chain in CHAINS}
    exported = {}
    for chain, result in results.items():
        if not isinstance(result, str):
            folder = FOLDER / f"{chain}-ort"
            if not (folder / "manifest.json").is_file():
                nacdeploy.export(
                    source=result.folder, target="ort", out=folder, profile=PROFILE, runs=FOLDER, wandb=False
                )
            exported[chain] = folder
    table = nacdeploy.bench([*exported.values()], progress=progress)
    rows = {row.chain: row for row in table.rows}
    print(f"\nmachine: {table.machine}; {table.runtime}; 1 thread, batch 1")
    print("| chain | test accuracy % | lost | BitOps | MACs | memory | model file smaller | faster (95 %) |")
    print("|---|---|---|---|---|---|---|---|")
    for chain, result in results.items():
        if isinstance(result, str):
            print(f"| `{chain}` | refused: {result} | | | | | | |")
            continue
        figures, scores, row = result.figures, result.scores, rows[result.chain]
        theory = (figures.bitops_ratio, figures.macs_ratio, figures.bytes_ratio)
        ratios = " | ".join(f"{ratio:.1f}x" for ratio in theory)
        speed = f"{row.speed.value:.2f}x ({row.speed.low:.2f}-{row.speed.high:.2f})"
        accuracy = f"{100 * row.score:.2f} | {scores.drop:.2f}"
        print(f"| `{chain}` | {accuracy} | {ratios} | {row.size_ratio:.1f}x | {speed} |")


if __name__ == "__main__":
    main()
