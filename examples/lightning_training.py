"""F by a PyTorch Lightning Trainer, on digits.

    pip install lightning
    nacdeploy transfer --task examples/lightning_training.py:digits --strategy QF
    nacdeploy export   --target ort

The model that F gives is a `torch.nn.Module` with its quantizers and masks inside: a LightningModule wraps it as any
other. Lightning moves the modules that it trains to their device and puts them into training mode; the values come
back by themselves.
"""

from typing import Any

import lightning
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
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


class Module(lightning.LightningModule):
    """The training of a classifier: its loss, and an optimizer by the settings of F."""

    def __init__(self, model: nn.Module, settings: nacdeploy.TrainingSettings) -> None:
        super().__init__()
        self.model, self.settings = model, settings

    def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
        images, labels = batch
        answers = self.model(images)
        loss = functional.cross_entropy(answers, labels)
        if self.settings.teacher is None:
            return loss
        with torch.no_grad():  # where F distils
            wanted = self.settings.teacher(images).softmax(1)
        return loss + self.settings.distill * (functional.cross_entropy(answers, wanted) - loss)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        how = self.settings
        return torch.optim.AdamW(self.model.parameters(), how.learning_rate, weight_decay=how.weight_decay)


def train(model: nn.Module, settings: nacdeploy.TrainingSettings, budget: nacdeploy.Budget) -> None:
    loader = DataLoader(split(0, 1100), settings.batch_size, shuffle=True)
    trainer = lightning.Trainer(
        max_epochs=budget.epochs,
        max_time=None if budget.minutes is None else {"minutes": budget.minutes},
        gradient_clip_val=settings.clip_norm,
        accumulate_grad_batches=settings.accumulate,
        precision="bf16-mixed" if settings.precision == "bf16" else "32-true",
        accelerator="auto",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(model, settings), loader)


def digits(**changed: Any) -> nacdeploy.Task:
    """Return the task: the network as the Trainer leaves it after six epochs, the data, and the Trainer."""
    lightning.seed_everything(0, verbose=False)
    model = network()
    train(model, nacdeploy.TrainingSettings(learning_rate=0.01, batch_size=64), nacdeploy.Budget(epochs=6))
    parts = {"train": split(0, 1100), "validation": split(1100, 1437), "test": split(1437, 1797)}
    return nacdeploy.Task(model, **{**parts, "trainer": train, **changed})
