"""A task of one's own, which a user brings as a Python object or as a function in a file."""

from nacdeploy.brought.task import Measure, Task
from nacdeploy.brought.training import Budget, TrainingSettings

__all__ = ["Budget", "Measure", "Task", "TrainingSettings"]
