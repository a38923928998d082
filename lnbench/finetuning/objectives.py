"""What is trained: the likelihood of answers in text, or a classification head. Both know their loss and accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lnbench.finetuning.data import Example, Question, TrainingData
from lnbench.lm.head import LaidOut, Pooling, read_hidden
from lnbench.lm.scoring import Batch, TokenRow, collate, read_scores
from lnbench.model.locate import locate
from lnbench.model.logits import logits_at, pad_right
from lnbench.model.sites import transformer_body

IGNORED = -100
"""Label of a position that has no loss."""


class Objective(nn.Module):
    """An adapted model and what it is trained for.

    ``forward`` takes what ``collate`` makes of examples, on any device, and returns the loss in nats, a mean over the
    labels of all forward passes that one optimiser step is split into (``num_items_in_batch``).
    """

    accepts_loss_kwargs = True  # for transformers' Trainer: forward takes num_items_in_batch
    better = "accuracy"
    """The measure that says which of two states is better."""

    def __init__(self, adapted: nn.Module) -> None:
        super().__init__()
        self.adapted = adapted

    @property
    def device(self) -> torch.device:
        """Where the model reads its tokens."""
        return next(self.adapted.parameters()).device

    def measure(self, questions: Sequence[Question], batch_size: int) -> dict[str, float]:
        """Return ``loss`` (nats, a mean) and ``accuracy`` over questions, without dropout."""
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                return self._measure(questions, batch_size)
        finally:
            self.train(training)

    def _measure(self, questions: Sequence[Question], batch_size: int) -> dict[str, float]:
        raise NotImplementedError


class TextObjective(Objective):
    """Cross-entropy of the answers' tokens; the prompts have no loss.

    A question counts as answered if its right choice is the likeliest; without choices, if every token of the answer
    is the model's first choice, given those before it.
    """

    def __init__(self, adapted: nn.Module, data: TrainingData) -> None:
        super().__init__(adapted)
        self._pad = data.pad
        if any(len(question.choices) == 1 for question in data.validation):
            self.better = "loss"

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Return ``input_ids`` and ``labels``, ``[batch, length]``: a label is the token that follows its position."""
        ids, _ = pad_right([example.tokens[:-1] for example in examples], self._pad)
        ignored = [[IGNORED] * (len(example.tokens) - 1 - example.answer) for example in examples]
        answers = [example.tokens[-example.answer :] for example in examples]
        labels, _ = pad_right([[*before, *own] for before, own in zip(ignored, answers, strict=True)], IGNORED)
        return {"input_ids": ids, "labels": labels}

    def forward(self, input_ids: Tensor, labels: Tensor, num_items_in_batch: Tensor | None = None) -> dict[str, Tensor]:
        """Return ``loss``, from :meth:`collate`'s tensors."""
        has_loss = labels != IGNORED
        targets = labels[has_loss]
        logits = logits_at(self.adapted, input_ids.to(self.device), has_loss.to(self.device))
        total = cross_entropy(logits.float(), targets.to(logits.device), reduction="sum").to(input_ids.device)
        return {"loss": total / (len(targets) if num_items_in_batch is None else num_items_in_batch)}

    def _measure(self, questions: Sequence[Question], batch_size: int) -> dict[str, float]:
        scores = iter(self._scores([choice for question in questions for choice in question.choices], batch_size))
        loss, tokens, right = 0.0, 0, 0
        for question in questions:
            likelihoods, are_greedy = zip(*(next(scores) for _ in question.choices), strict=True)
            loss -= likelihoods[question.gold]
            tokens += question.choices[question.gold].answer
            right += likelihoods.index(max(likelihoods)) == question.gold if len(likelihoods) > 1 else are_greedy[0]
        return {"loss": loss / tokens, "accuracy": right / len(questions)}

    def _scores(self, examples: Sequence[Example], batch_size: int) -> list[tuple[float, bool]]:
        """Return each answer's log-likelihood, and whether greedy decoding would give it; batched as in evaluation."""
        requests = [
            (None, example.tokens[: -example.answer], example.tokens[-example.answer :]) for example in examples
        ]
        collator = collate(requests, share=True)
        scores: list[tuple[float, bool]] = []
        for chunk in collator.get_batched(n=batch_size):
            rows = [TokenRow((context + answer)[:-1], len(answer)) for _, context, answer in chunk]
            batch = Batch.of(rows, self.device)
            logits = logits_at(self.adapted, batch.ids, batch.scored)
            scores += [score for _, score in read_scores(collator, chunk, batch, logits, torch.float32)]
        return list(collator.get_original(scores))


class HeadObjective(Objective):
    """Cross-entropy of a linear head's classes, read from one position of each text."""

    def __init__(self, adapted: nn.Module, data: TrainingData) -> None:
        super().__init__(adapted)
        assert data.classes is not None
        model: Any = locate(adapted).model
        self._body = [transformer_body(model)]  # in a list, or it would be a second submodule
        settings = data.settings
        self.pooling = Pooling("paper", settings.max_length, data.pad) if settings.pooling == "paper" else Pooling()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(settings.seed)
            # Some bodies end in another width than that of their blocks: what counts is what the output head reads.
            self.head = nn.Linear(model.get_output_embeddings().in_features, data.classes)
        self.head.to(self.device)

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Return ``input_ids`` ``[batch, length]``, ``read`` and ``labels`` ``[batch]``; a mask if padding is seen."""
        texts = self.pooling.lay_out([example.tokens for example in examples])
        mask = {} if texts.mask is None else {"attention_mask": texts.mask}
        labels = torch.tensor([example.label for example in examples])
        return {"input_ids": texts.ids, "read": texts.read, "labels": labels, **mask}

    def forward(
        self,
        input_ids: Tensor,
        read: Tensor,
        labels: Tensor,
        attention_mask: Tensor | None = None,
        num_items_in_batch: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return ``loss``, from :meth:`collate`'s tensors."""
        mask = None if attention_mask is None else attention_mask.to(self.device)
        logits = self._logits(LaidOut(input_ids.to(self.device), mask, read))
        total = cross_entropy(logits, labels.to(logits.device), reduction="sum").to(input_ids.device)
        return {"loss": total / (len(labels) if num_items_in_batch is None else num_items_in_batch)}

    def _logits(self, texts: LaidOut) -> Tensor:
        hidden = read_hidden(self._body[0], texts)
        # The head is scored in float32, so it is trained in float32, whatever the rest is.
        with torch.autocast(hidden.device.type, enabled=False):
            logits: Tensor = self.head(hidden.float().to(self.head.weight.device))
        return logits

    def _measure(self, questions: Sequence[Question], batch_size: int) -> dict[str, float]:
        loss, right = 0.0, 0
        ordered = sorted(questions, key=lambda question: -len(question.choices[0].tokens))
        for start in range(0, len(ordered), batch_size):
            chunk = ordered[start : start + batch_size]
            texts = self.pooling.lay_out([question.choices[0].tokens for question in chunk], self.device)
            gold = torch.tensor([question.gold for question in chunk])
            logits = self._logits(texts).cpu()
            loss += float(cross_entropy(logits, gold, reduction="sum"))
            right += int((logits.argmax(-1) == gold).sum())
        return {"loss": loss / len(questions), "accuracy": right / len(questions)}


def objective_of(adapted: nn.Module, data: TrainingData) -> TextObjective | HeadObjective:
    """Return the objective that the data is made for."""
    return TextObjective(adapted, data) if data.classes is None else HeadObjective(adapted, data)
