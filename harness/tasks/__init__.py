"""What a task is: the inputs a model takes, the outputs it returns, and what is promised of their axes and values."""

from harness.tasks.spec import FACTS, MODALITIES, TaskFacts, TaskSpec, TaskType

__all__ = ["FACTS", "MODALITIES", "TaskFacts", "TaskSpec", "TaskType"]
