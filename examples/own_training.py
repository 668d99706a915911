"""A training loop of one's own, on digits: wherever nacdeploy trains, it is this loop that trains.

    nacdeploy transfer --task examples/own_training.py:digits --strategy QF
    nacdeploy export   --target ort

`train` is a plain PyTorch loop; lightning_training.py and hf_trainer.py have trainers of other packages in its place.
"""

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import nacdeploy


def network() -> nn.Module:
    body = (nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU())
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(32 * 16, 10))


def split(first: int, last: int) -> TensorDataset:
    digits = load_digits()
    images = torch.tensor(digits.images[first:last], dtype=torch.float32)[:, None] / 16
    return TensorDataset(images, torch.tensor(digits.target[first:last]))


def train(model: nn.Module, settings: nacdeploy.TrainingSettings, budget: nacdeploy.Budget) -> None:
    """Train in place: label smoothing, clipped gradients, and a learning rate that warms up and decays."""
    loader = DataLoader(split(0, 1100), settings.batch_size, shuffle=True)
    optimizer = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    n_steps = budget.epochs * len(loader)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, n_steps)
    device = next(model.parameters()).device
    for _ in range(budget.epochs):
        model.train()
        for images, labels in loader:
            answers = model(images.to(device))
            loss = functional.cross_entropy(answers, labels.to(device), label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()


def digits(**changed: Any) -> nacdeploy.Task:
    """Return the task: the network as the loop itself leaves it after six epochs, the data, and the loop."""
    torch.manual_seed(0)
    model = network()
    train(model, nacdeploy.TrainingSettings(learning_rate=0.01, batch_size=64), nacdeploy.Budget(epochs=6))
    parts = {"train": split(0, 1100), "validation": split(1100, 1437), "test": split(1437, 1797)}
    return nacdeploy.Task(model, **{**parts, "trainer": train, **changed})
