"""Tasks and sizes that small models of tiers 1 and 2 share."""

from __future__ import annotations

from harness.tasks import TaskSpec, TaskType

VOCAB, LENGTH, CLASSES, FEATURES, CHANNELS, SIDE = 37, 12, 4, 6, 3, 8

CAUSAL = TaskSpec(TaskType.CAUSAL_LM, vocab_size=VOCAB, max_seq_len=LENGTH, pad_token_id=0)
MASKED = TaskSpec(TaskType.MASKED_LM, vocab_size=VOCAB, max_seq_len=LENGTH, pad_token_id=0)
TAGGING = TaskSpec(TaskType.TOKEN_CLASSIFICATION, vocab_size=VOCAB, max_seq_len=LENGTH, pad_token_id=0, num_classes=CLASSES)
TEXT = TaskSpec(TaskType.SEQUENCE_CLASSIFICATION, vocab_size=VOCAB, max_seq_len=LENGTH, pad_token_id=0, num_classes=CLASSES)
SEQ2SEQ = TaskSpec(TaskType.SEQ2SEQ_LM, vocab_size=VOCAB, max_seq_len=LENGTH, pad_token_id=0)
IMAGES = TaskSpec(TaskType.IMAGE_CLASSIFICATION, image_size=(CHANNELS, SIDE, SIDE), num_classes=CLASSES)
TABLE = TaskSpec(TaskType.TABULAR_CLASSIFICATION, num_features=FEATURES, num_classes=CLASSES)
NUMBER = TaskSpec(TaskType.TABULAR_REGRESSION, num_features=FEATURES)
