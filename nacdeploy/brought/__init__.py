"""A task of one's own, which a user brings as a Python object or as a function in a file."""

from nacdeploy.brought.task import Measure, Task

__all__ = ["Measure", "Task"]
