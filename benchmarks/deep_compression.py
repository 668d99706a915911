"""Deep Compression on real data: LeNet-5 on Fashion-MNIST pruned by elements, its weights shared, coded into a file.

Prints the file's bytes beside those of the FP32 checkpoint and of the same weights through zstd. Minutes on one core.
"""

import argparse
import time
from pathlib import Path

import nacdeploy
from nacdeploy.base import latency, records
from nacdeploy.cli.render import RichProgress
from nacdeploy.strategies.steps import checkpoint

FOLDER = Path("bench-run") / "deep-compression"
MODEL = f"{Path(__file__).parent / 'lenet.py'}:lenet5"
PROFILE = """
description = "LeNet-5 on Fashion-MNIST: 6,000 training images."
target = "ort"
data = "fashion-mnist"

[images]
n_train = 6000
n_validation = 2000

[train]
epochs = 20
learning_rate = 0.02
batch_size = 64

[finetune]
epochs = 8
learning_rate = 0.02
batch_size = 64
schedule = "cosine"
early_stop_patience = 100       # a masked network recovers late

[sparsify]
pattern = "element"
exclude = ["0", "7"]            # 500 weights that see the image, 5,000 that name the classes
"""
# masked networks stand, and want, a higher rate than the dense one
FINETUNE = "F(learning_rate=0.05)"
CHAIN = (
    f"S(ratio=0.8){FINETUNE}S(ratio=0.9){FINETUNE}S(ratio=0.93)F(learning_rate=0.04,epochs=20)"
    "{code}F(optimizer=adamw,learning_rate=0.0005,epochs=5)"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 5], help="bits of the shared values")
    options = parser.parse_args()
    start, progress = time.monotonic(), RichProgress()
    FOLDER.mkdir(parents=True, exist_ok=True)
    profile = FOLDER / "deep_compression.toml"
    records.write_text(profile, PROFILE)
    print(f"machine: {latency.machine()}")
    print("| chain | FP32 test % | test % | drop (points) | zeros % | FP32 bytes | zstd bytes | file bytes | ratio |")
    print("|---|---|---|---|---|---|---|---|---|")
    for bits in options.bits:
        chain = CHAIN.format(code=f"C(bits={bits})")
        result = nacdeploy.transfer(
            strategy=chain, model=MODEL, profile=str(profile), runs=FOLDER, wandb=False, progress=progress
        )
        print(_row(bits, result))
    print(f"{(time.monotonic() - start) / 60:.1f} minutes")


def _row(bits: int, result: nacdeploy.Result) -> str:
    """The FP32 bytes are those of the baseline's values; zstd is given the compressed network's weights as they are
    run, in float."""
    file = FOLDER / f"lenet5-{bits}.nac"
    encoded = nacdeploy.encode(source=result.checkpoint, out=file)
    state, _ = checkpoint.load(Path(result.checkpoint))
    weights = {name: state.network.sharing.weight(name).detach() for name in state.network.sharing.layers}
    plain = FOLDER / f"weights-{bits}.safetensors"
    records.write_bytes(plain, [checkpoint.packed(weights)])
    zstd_bytes = nacdeploy.encode(source=plain, out=FOLDER / "weights.nac").n_bytes_zstd
    fp32 = (Path(result.baseline_checkpoint) / checkpoint.VALUES).stat().st_size
    zeros = sum(float((w == 0).sum()) for w in weights.values()) / sum(w.numel() for w in weights.values())
    scores = result.scores
    fp32_accuracy, drop = 100 * max(scores.baseline, scores.control), f"{scores.drop:.2f}"
    return (
        f"| `{result.chain}` | {fp32_accuracy:.2f} | {100 * scores.compressed:.2f} | {drop} | {100 * zeros:.1f} "
        f" | {fp32:,} | {zstd_bytes:,} | {encoded.n_bytes:,} | {fp32 / encoded.n_bytes:.1f}x |"
    )


if __name__ == "__main__":
    main()
