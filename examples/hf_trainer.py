"""F by a Hugging Face Trainer, on digits.

    pip install transformers accelerate
    nacdeploy transfer --task examples/hf_trainer.py:digits --strategy QF
    nacdeploy export   --target ort

The Trainer takes the model that F gives as it is. Its loss comes from `compute_loss_func`, so that the model needs no
`labels` argument; its columns are the arguments of the model's `forward` and `labels`.
"""

import tempfile
import time
from typing import Any

import torch
import transformers
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

import nacdeploy


def network() -> nn.Module:
    body = (nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU())
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(32 * 16, 10))


class Digits(Dataset):
    """Samples by name, as the Trainer and nacdeploy both take them."""

    def __init__(self, first: int, last: int) -> None:
        digits = load_digits()
        self.images = torch.tensor(digits.images[first:last], dtype=torch.float32)[:, None] / 16
        self.labels = torch.tensor(digits.target[first:last])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input": self.images[index], "labels": self.labels[index]}  # `input`: the argument of the network


class Minutes(transformers.TrainerCallback):
    """Ends a training behind the step in which its minutes are over."""

    def __init__(self, minutes: float | None) -> None:
        self.minutes, self.begun = minutes, time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        if self.minutes is not None and time.monotonic() - self.begun > 60 * self.minutes:
            control.should_training_stop = True
        return control


def train(model: nn.Module, settings: nacdeploy.TrainingSettings, budget: nacdeploy.Budget) -> None:
    def loss(answers: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        return functional.cross_entropy(answers, labels, label_smoothing=settings.label_smoothing)

    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            num_train_epochs=budget.epochs,
            per_device_train_batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            warmup_steps=settings.warmup_steps,
            gradient_accumulation_steps=settings.accumulate,
            max_grad_norm=settings.clip_norm or 0.0,
            bf16=settings.precision == "bf16",
            seed=settings.seed % 2**32,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        transformers.Trainer(
            model,
            arguments,
            train_dataset=Digits(0, 1100),
            compute_loss_func=loss,
            callbacks=[Minutes(budget.minutes)],
        ).train()


def digits(**changed: Any) -> nacdeploy.Task:
    """Return the task: the network as the Trainer leaves it after six epochs, the data, and the Trainer."""
    torch.manual_seed(0)
    model = network()
    train(model, nacdeploy.TrainingSettings(learning_rate=0.01, batch_size=64), nacdeploy.Budget(epochs=6))
    parts = {"train": Digits(0, 1100), "validation": Digits(1100, 1437), "test": Digits(1437, 1797)}
    return nacdeploy.Task(model, **{**parts, "trainer": train, **changed})
