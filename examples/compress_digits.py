"""A training script of one's own, compressed: five lines of it are nacdeploy's.

nacdeploy compress examples/digits.json --script examples/compress_digits.py    # one compression; the script may run
nacdeploy compress examples/digits_automatic.json --automatic                   # from now on: the best of several
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from nacdeploy.experiments import create_compressor, job_main, report_result

Split = tuple[Tensor, Tensor]


def network() -> nn.Module:
    body = (nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(32 * 16, 32), nn.ReLU(), nn.Linear(32, 10))


def data() -> tuple[Split, Split]:
    """Training and validation digits, images (N, 1, 8, 8); the last 360 are kept as a test set."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None]
    images = (images - images[:1100].mean()) / images[:1100].std()
    labels = torch.tensor(digits.target)
    return (images[:1100], labels[:1100]), (images[1100:1437], labels[1100:1437])


def train(model: nn.Module, optimizer: torch.optim.Optimizer, split: Split, n_epochs: int) -> None:
    images, labels = split
    for _ in range(n_epochs):
        model.train()
        for index in torch.randperm(len(labels)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(images[index]), labels[index]).backward()
            optimizer.step()


def accuracy(model: nn.Module, split: Split) -> float:
    with torch.no_grad():
        return float((model.eval()(split[0]).argmax(1) == split[1]).float().mean())


@job_main
def main(config: dict) -> None:  # type: ignore[type-arg]
    training, validation = data()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train(model, optimizer, training, n_epochs=4)

    compressor = create_compressor(model, config, optimizer=optimizer)
    model = compressor.compress()
    report_result(accuracy(model, validation))
    model = compressor.apply_speedup(dummy_input=torch.randn(1, 1, 8, 8))
    for _ in range(2):
        train(model, optimizer, training, n_epochs=1)
        report_result(accuracy(model, validation))
    compressor.export_model(model_path="model_compressed.pth", mask_path="model_mask.pth")


if __name__ == "__main__":
    main()
