"""A classification head that scores a task's choices in place of their likelihoods."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from lnbench.errors import LnbenchError, unknown
from lnbench.files import file_sha256
from lnbench.formats import read_tensors, write_tensors
from lnbench.model.logits import pad_right

FORMAT = "lnbench.head/1"
FILE = "head.safetensors"
"""Its name in an adapter's folder."""
PoolingName = Literal["last", "paper"]
SEPARATOR = "\x1e"
"""In a prompt, the place of the tokenizer's own end of text: tasks do not know the tokenizer."""

log = logging.getLogger(__name__)


class LaidOut(NamedTuple):
    """Texts as one batch."""

    ids: Tensor
    """``LongTensor[batch, length]``, padded on the right."""
    mask: Tensor | None
    """``LongTensor[batch, length]``, 1 at real tokens; None where padding cannot be seen from what is read."""
    read: Tensor
    """``LongTensor[batch]``: the position that the head reads."""


@dataclass(frozen=True)
class Pooling:
    """Which position of a text the head reads.

    ``last``: the last real token. ``paper``: the last position of the text padded to ``length``, as in the published
    code of *Language-specific Neurons Do Not Facilitate Cross-Lingual Transfer*, which reads a padding token that
    attends to the real ones.

    Args:
        name: Which of the two.
        length: Tokens that texts are padded and cut to; ``paper`` only.
        pad: Token id of the padding; ``paper`` only.
    """

    name: PoolingName = "last"
    length: int | None = None
    pad: int | None = None

    def lay_out(self, texts: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> LaidOut:
        """Lay texts out as the model is to read them.

        Args:
            texts: Token ids; for ``paper`` at most ``length`` of them.
            device: Where the tensors go.
        """
        ids, real = (part.to(device) for part in pad_right(texts, self.pad or 0, self.length))
        ends = real.sum(1)
        if self.name == "last":
            return LaidOut(ids, None, ends - 1)
        return LaidOut(ids, real.long(), torch.full_like(ends, ids.shape[1] - 1))

    def metadata(self) -> dict[str, str]:
        """Return it as text, for a file."""
        values = {"pooling": self.name, "length": self.length, "pad": self.pad}
        return {name: str(value) for name, value in values.items() if value is not None}

    @classmethod
    def of(cls, metadata: dict[str, str], path: Path) -> Pooling:
        """Return the pooling that a file's metadata names; ``last`` where it names none.

        Raises:
            LnbenchError: an unknown one, or one whose length or padding is missing.
        """
        if (name := metadata.get("pooling", "last")) == "last":
            return cls()
        if name != "paper":
            raise unknown("pooling", name, get_args(PoolingName), f"{path} names it")
        try:
            return cls("paper", int(metadata["length"]), int(metadata["pad"]))
        except (KeyError, ValueError) as error:
            raise LnbenchError(f"{path}: pooling=paper needs the metadata length and pad, as whole numbers") from error


def separated(text: str, tokenizer: Any) -> str:
    """Return a prompt with the tokenizer's end of text for :data:`SEPARATOR`.

    Raises:
        LnbenchError: the tokenizer has none.
    """
    if SEPARATOR not in text:
        return text
    if tokenizer.eos_token is None:
        raise LnbenchError(
            "the prompt uses a separator that is replaced by the EOS token, but this tokenizer has no eos_token; use a "
            "task without _pair"
        )
    return text.replace(SEPARATOR, tokenizer.eos_token)


def read_hidden(body: Any, texts: LaidOut) -> Tensor:
    """Return ``[batch, hidden]``: the final hidden state at the position that the head reads.

    Args:
        body: The model without its output head.
        texts: What :meth:`Pooling.lay_out` made.
    """
    hidden: Tensor = body(texts.ids, attention_mask=texts.mask, use_cache=False).last_hidden_state
    return hidden[torch.arange(len(hidden), device=hidden.device), texts.read.to(hidden.device)]


@dataclass(frozen=True)
class ClassificationHead:
    """A linear head on one position's final hidden state.

    Args:
        weight: ``[classes, hidden]``.
        bias: ``[classes]``.
        sha256: Of the file it came from.
        pooling: Which position it reads.
        task: The task whose prompts it was trained on, if that is known.
    """

    weight: Tensor
    bias: Tensor
    sha256: str
    pooling: Pooling = Pooling()
    task: str | None = None

    @classmethod
    def load(cls, path: str | Path) -> ClassificationHead:
        """Read a head: safetensors with ``weight``, optionally ``bias``, and the metadata ``format``.

        Args:
            path: The file, or the adapter folder that holds ``head.safetensors``.

        Raises:
            LnbenchError: missing, truncated or not a head.
        """
        path = Path(path)
        path = path / FILE if path.is_dir() else path
        stored, metadata = read_tensors(path, "classification head", "train or copy it again")
        tensors = {name: tensor.float() for name, tensor in stored.items()}
        weight = tensors.get("weight")
        if metadata.get("format") != FORMAT or weight is None or weight.ndim != 2:
            raise LnbenchError(f"{path} is not a classification head of format {FORMAT}")
        bias = tensors.get("bias", torch.zeros(weight.shape[0]))
        if bias.shape != weight.shape[:1]:
            raise LnbenchError(f"{path}: bias of shape {tuple(bias.shape)} does not fit {weight.shape[0]} classes")
        return cls(weight, bias, file_sha256(path), Pooling.of(metadata, path), metadata.get("task"))

    def warn_of_other_prompts(self, tasks: Iterable[str]) -> None:
        """Name the tasks that are not the one it was trained on; ``xnli_en`` and ``xnli_hi`` are one."""
        trained = (self.task or "").rpartition("_")[0]
        if trained and (others := sorted(task for task in tasks if task.rpartition("_")[0] != trained)):
            log.warning(
                "the head was trained on the prompts of %s; those of %s may differ", self.task, ", ".join(others)
            )

    def log_probabilities(self, hidden: Tensor) -> Tensor:
        """Return ``[batch, classes]`` from hidden states ``[batch, hidden]``.

        Raises:
            LnbenchError: the head was made for a model of another hidden size.
        """
        if hidden.shape[-1] != self.weight.shape[1]:
            raise LnbenchError(
                f"the classification head reads {self.weight.shape[1]} hidden features, the model has "
                f"{hidden.shape[-1]}: the head belongs to another model"
            )
        weight, bias = self.weight.to(hidden.device), self.bias.to(hidden.device)
        return torch.nn.functional.linear(hidden.float(), weight, bias).log_softmax(-1)


def check_choices(requests: Iterable[Any], classes: int) -> None:
    """Make sure that a head with so many classes can answer lm-eval's requests.

    Raises:
        LnbenchError: a document's choices are not one for each class, all after the same prompt, or they differ between
            documents, so that they hold text which the head would not read; it names the task.
    """
    asked: dict[tuple[str, int], list[Any]] = defaultdict(list)
    names: dict[tuple[str, int], str] = {}
    for request in requests:
        asked[request.task_name, request.doc_id].append(request)
    for (task, _), of_document in asked.items():
        # Between processes lm-eval may ask the same twice.
        choices, prompts = {request.idx for request in of_document}, {request.args[0] for request in of_document}
        if choices != set(range(classes)) or len(prompts) > 1:
            raise LnbenchError(
                f"task {task} cannot be answered by the classification head, which has {classes} classes: a document "
                f"has {len(choices)} choices after {len(prompts)} different prompts; leave head= out for this task"
            )
        for request in of_document:
            answer = request.args[1]
            if names.setdefault((task, request.idx), answer) != answer:
                raise LnbenchError(
                    f"task {task} cannot be answered by the classification head, which reads the prompt alone: its "
                    f"choices hold text of the document ({answer!r}); use a task whose choices are the same for every "
                    "document, such as lnbench_xnli_pair"
                )


def save_head(path: Path, head: nn.Linear, pooling: Pooling, task: str | None = None) -> None:
    """Write a trained head as :meth:`ClassificationHead.load` reads it.

    Raises:
        LnbenchError: the disk is full or the folder cannot be written.
    """
    tensors = {name: value.detach().float().cpu().contiguous() for name, value in head.state_dict().items()}
    metadata = {"format": FORMAT, **pooling.metadata(), **({"task": task} if task else {})}
    write_tensors(path, tensors, metadata)
