"""Metrics of answers that are a yes or a no, each question judged by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from harness.evaluation.answers import NO_CLASS, Answers
from harness.evaluation.metrics import Meter
from harness.evaluation.metrics.classification import HALF, RocArea, half_order


class QuestionF1(Meter):
    """Mean F1 of yes over the questions in which yes occurs, as label or as answer; a broken answer is no yes."""

    hits: Tensor
    labels: Tensor
    answers: Tensor

    def __init__(self, questions: int, **synchronisation: Any) -> None:
        super().__init__(**synchronisation)
        self._questions = questions
        self.add_sums("hits", "labels", "answers", shape=(questions,))

    def update(self, answers: Answers) -> None:
        """Counts the labels and answers of a batch."""
        assert answers.column is not None
        said, wanted = answers.predicted == 1, answers.labels == 1
        for counts, chosen in ((self.hits, said & wanted), (self.labels, wanted), (self.answers, said)):
            counts += answers.column[chosen].bincount(minlength=self._questions)

    def compute(self) -> Tensor | None:
        """The mean; ``None`` where there is no yes at all."""
        either = self.labels + self.answers
        return (2 * self.hits / either)[either > 0].mean() if either.any() else None


class QuestionRocArea(RocArea):
    """Mean over the questions of the area under the curve of yes against no; one that has only yes or only no does not count."""

    def update(self, answers: Answers) -> None:
        """Keeps or counts the log-odds of a batch."""
        assert answers.log_probs is not None
        assert answers.column is not None
        if answers.is_broken:
            self.broken += 1
        whole = answers.predicted != NO_CLASS
        odds = (answers.log_probs[whole, 1] - answers.log_probs[whole, 0]).float()
        kinds = 2 * answers.column[whole] + answers.labels[whole]
        if self._is_exact:
            self.scores.append(odds)
            self.labels.append(kinds)
            return
        places = kinds * self.counts.shape[-1] + ((half_order(odds) + HALF) >> self._dropped_bits)
        self.counts.view(-1).index_add_(0, places, torch.ones(len(places), dtype=torch.int32, device="cpu"))

    def compute(self) -> Tensor | None:
        """The mean area; NaN where scores were broken, ``None`` where no question has both answers."""
        if self.broken:
            return torch.tensor(torch.nan)
        areas = [self.area(rest, own) for rest, own in self._histograms() if rest.any() and own.any()]
        return torch.stack(areas).mean() if areas else None

    def _histograms(self) -> Iterator[tuple[Tensor, Tensor]]:
        if not self._is_exact:
            yield from (tuple(counts) for counts in self.counts)  # type: ignore[misc]
            return
        scores, kinds = (torch.cat(parts) if isinstance(parts, list) else parts for parts in (self.scores, self.labels))
        for question in range(self._classes):
            distinct, places = scores[kinds // 2 == question].unique(return_inverse=True)
            of_question = kinds[kinds // 2 == question]
            yield tuple(places[of_question == 2 * question + answer].bincount(minlength=len(distinct)) for answer in (0, 1))  # type: ignore[misc]
