"""What a model writes after a prompt under several interventions, in columns, with the language of each line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from markupsafe import Markup
from torch import nn

from lnbench.choices import override
from lnbench.errors import LnbenchError, unknown
from lnbench.files import warn_once
from lnbench.host import between_languages, changes_nothing
from lnbench.language_control.marked_lines import MarkedLine, marked_lines
from lnbench.model.architectures import POST
from lnbench.model.sites import evaluating, input_device
from lnbench.neurons import NeuronSet
from lnbench.overrides import Positions
from lnbench.special_tokens import chat_tokens, padding_of
from lnbench.statistics import Statistics

NONE = "none"


@dataclass(frozen=True)
class Continuation:
    """What a model wrote after one prompt.

    Attributes:
        prompt: The prompt, as it was given.
        column: ``none``, or the intervention with the language whose neurons it changes: ``zero hi``.
        intervention: Its name.
        language: Whose neurons were changed; None for the unchanged model.
        seed: Of the sampling; None if it is greedy.
        text: What was written, without special tokens.
    """

    prompt: str
    column: str
    intervention: str
    language: str | None
    seed: int | None
    text: str

    @cached_property
    def lines(self) -> list[MarkedLine]:
        """Its lines, each with its language."""
        return marked_lines(self.text)


@dataclass(frozen=True)
class SideBySide:
    """Continuations of prompts, by prompt and seed (rows) and intervention (columns); shown as a table in notebooks."""

    continuations: tuple[Continuation, ...]

    def __repr__(self) -> str:
        return f"SideBySide({len(list(self.rows()))} prompts, columns {', '.join(self.columns)})"

    @property
    def columns(self) -> list[str]:
        """The columns, from left to right."""
        return list(dict.fromkeys(one.column for one in self.continuations))

    def rows(self) -> Iterator[tuple[str, int | None, list[Continuation]]]:
        """Yield prompt, seed and the continuations in the order of the columns."""
        rows: dict[tuple[str, int | None], dict[str, Continuation]] = {}
        for one in self.continuations:
            rows.setdefault((one.prompt, one.seed), {})[one.column] = one
        for (prompt, seed), by_column in rows.items():
            yield prompt, seed, [by_column[column] for column in self.columns]

    def _repr_html_(self) -> str:
        head = Markup("").join(Markup("<th>{}</th>").format(column) for column in ["prompt", *self.columns])
        body = Markup("").join(
            Markup("<tr><td>{}</td>{}</tr>").format(
                prompt if seed is None else f"{prompt} (seed {seed})",
                Markup("").join(Markup('<td dir="auto">{}</td>').format(_html(one)) for one in row),
            )
            for prompt, seed, row in self.rows()
        )
        return str(Markup("<table><tr>{}</tr>{}</table>").format(head, body))


def _html(continuation: Continuation) -> Markup:
    return Markup("<br>").join(
        Markup("<small>{}</small> {}").format(line.language, line.text) for line in continuation.lines
    )


def generate_side_by_side(
    model: nn.Module,
    tokenizer: Any,
    prompts: str | Sequence[str],
    neurons: NeuronSet,
    interventions: Sequence[Any] = (NONE, "zero"),
    languages: Sequence[str] = (),
    *,
    statistics: Mapping[str, Statistics] | None = None,
    source: str | None = None,
    max_new_tokens: int = 60,
    seeds: Sequence[int] = (),
    temperature: float = 1.0,
    top_p: float = 1.0,
    chat: bool = False,
    site: str = POST,
    positions: Positions = "all",
) -> SideBySide:
    """Let a model continue prompts under several interventions on several languages' neurons.

    Args:
        model: A supported Hugging Face causal LM.
        tokenizer: Its tokenizer.
        prompts: One or more.
        neurons: The neurons of each language.
        interventions: Names such as ``p90``, or intervention objects; ``none`` is one column, whatever the languages.
        languages: Whose neurons are changed, one column for each; all of the set by default. For an intervention
            between two languages they are the targets.
        statistics: Language → Statistics, where an intervention reads its values.
        source: The language that an answer would be in, for interventions between two languages, as ``swap``.
        max_new_tokens: Tokens written, at most.
        seeds: One sampled continuation for each; none is greedy. A seed is the same in every column.
        temperature: Of the sampling.
        top_p: Share of the probability that is sampled from.
        chat: Put a prompt into the tokenizer's chat template, as a user's turn.
        site: Where values are written.
        positions: Which tokens are changed: ``all``, those of the ``prompt``, or the ``generated``.

    Raises:
        LnbenchError: unknown intervention or language, a language without neurons, an empty prompt, a tokenizer without
            a chat template; and as :func:`lnbench.override`.
    """
    asked = [prompts] if isinstance(prompts, str) else list(prompts)
    targets = list(languages) or list(neurons.order)
    if max_new_tokens < 1:
        raise LnbenchError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
    for code in targets:
        if code not in neurons:
            raise unknown("language", code, neurons.languages, "This NeuronSet has no others")
    formats = {own.chat for own in (statistics or {}).values()} - {None}
    warning = neurons.format_warning(chat, formats.pop() if len(formats) == 1 else None)
    if warning and not all(map(changes_nothing, interventions)):
        warn_once(warning)
    encoded = {prompt: _encoded(tokenizer, prompt, chat=chat) for prompt in asked}
    sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    device = input_device(model)
    written = []
    for intervention in interventions:
        # Nothing is between a language and itself.
        own = [code for code in targets if languages or code != source or not between_languages(intervention)]
        for language in [None] if changes_nothing(intervention) else own:
            if language is not None and neurons.count(language) == 0:
                raise LnbenchError(f"language {language!r} has no neurons in this NeuronSet, so nothing would change")
            context = (
                nullcontext()
                if language is None
                else override(
                    model,
                    neurons,
                    intervention,
                    statistics=statistics,
                    source=source,
                    target=language,
                    site=site,
                    positions=positions,
                )
            )
            name = intervention if isinstance(intervention, str) else type(intervention).__name__
            column = NONE if language is None else f"{name} {language}"
            with context, evaluating(model), torch.random.fork_rng(), torch.inference_mode():
                for prompt, ids in encoded.items():
                    for seed in list[int | None](seeds) or [None]:
                        if seed is not None:
                            torch.manual_seed(seed)
                        output = model.generate(  # type: ignore[operator]
                            torch.tensor([ids], device=device),
                            attention_mask=torch.ones(1, len(ids), dtype=torch.long, device=device),
                            max_new_tokens=max_new_tokens,
                            pad_token_id=padding_of(tokenizer),
                            **({"do_sample": False} if seed is None else sampling),
                        )
                        text = tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True)
                        written.append(Continuation(prompt, column, name, language, seed, str(text)))
    return SideBySide(tuple(written))


def _encoded(tokenizer: Any, prompt: str, *, chat: bool) -> list[int]:
    ids = chat_tokens(tokenizer, prompt) if chat else list(tokenizer(prompt)["input_ids"])
    if not ids:
        raise LnbenchError("an empty prompt has no token to continue from; this tokenizer puts none before a text")
    return ids
