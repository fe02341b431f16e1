"""What a task is: the inputs a model takes, the outputs it returns, and what is promised of their axes and values."""

from harness.tasks.presets import FACTS, MODALITIES, TaskFacts, TaskType
from harness.tasks.spec import TaskSpec

__all__ = ["FACTS", "MODALITIES", "TaskFacts", "TaskSpec", "TaskType"]
