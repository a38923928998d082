"""What neurons fire on: the contexts that activate each of a set most, in one streaming pass over text.

Source: the method is that of maximally activating examples, as in Bills et al. 2023, *Language models can explain
neurons in language models*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from lnbench.corpora.packing import blocks
from lnbench.errors import LnbenchError, unknown
from lnbench.model.architectures import NEURON_SITES, POST, PRE
from lnbench.model.banks import Bank
from lnbench.model.experts import ExpertsBank
from lnbench.model.forward_passes import eager
from lnbench.model.locate import locate
from lnbench.model.logit_lens import lens_logits
from lnbench.model.sites import Sites, evaluating, input_device, transformer_body
from lnbench.model.taps import Handle, tap_module
from lnbench.progress import Bar

TEXT = "text"
"""The language of texts that come without one."""
_PART = "\ufffd"
"""What part of a character is decoded to."""
_KEPT_ROWS = 4096
"""Documents in memory beyond which those that no neuron needs any more are dropped."""


@dataclass(frozen=True)
class Example:
    """A place in a text where a neuron is active.

    Attributes:
        value: The activation at the site.
        language: The text's language, as it was given.
        document: Number of the text among those of its language that have tokens, from 0.
        position: Number of the token in it, from 0; BOS is not counted.
        before: The text before the token, in the same document.
        token: The token that the neuron is active at.
        after: The text behind it, which the neuron has not seen.
    """

    value: float
    language: str
    document: int
    position: int
    before: str
    token: str
    after: str


@dataclass(frozen=True)
class NeuronExamples:
    """What one neuron fires on, and what it writes.

    Attributes:
        layer: Its layer.
        index: Its index there.
        examples: The places with the highest activations above 0, at most one per document; highest first.
        rates: Language → share of the tokens with an activation above 0.
        means: Language → mean activation.
        promoted: The output tokens whose logits its down projection raises most where it is active, with scores.
        suppressed: Those that it lowers most.
    """

    layer: int
    index: int
    examples: tuple[Example, ...]
    rates: Mapping[str, float]
    means: Mapping[str, float]
    promoted: tuple[tuple[str, float], ...] = ()
    suppressed: tuple[tuple[str, float], ...] = ()

    @property
    def name(self) -> str:
        """``layer.index``."""
        return f"{self.layer}.{self.index}"

    def share(self, language: str) -> float:
        """Return the share of its examples that are of a language's text; NaN if it has none."""
        if not self.examples:
            return float("nan")
        return sum(example.language == language for example in self.examples) / len(self.examples)


def top_examples(
    model: nn.Module,
    tokenizer: Any,
    neurons: Mapping[int, Tensor],
    texts: Mapping[str, Iterable[str]] | Iterable[str],
    top: int = 20,
    *,
    site: str = POST,
    length: int = 256,
    context: int = 16,
    tokens: int | None = None,
    batch_size: int = 8,
    skip: int = 1,
    output_tokens: int = 10,
    progress: bool = False,
) -> list[NeuronExamples]:
    """Find the contexts that activate each neuron most, and the output tokens that it promotes. One pass for all.

    Each document is read from its beginning up to ``length``; a neuron keeps at most one place per document, the
    earliest of its highest. Memory holds ``top`` places per neuron, however long the text is.

    Args:
        model: A supported Hugging Face causal LM.
        tokenizer: Its tokenizer.
        neurons: Layer → ``LongTensor`` of indices, such as ``neuron_set["hi"]``.
        texts: The documents, or those of each language, whose contexts then compete: language → documents.
        top: Places per neuron.
        site: Where activations are read: ``post`` the non-linearity, or ``pre``.
        length: Tokens read of a document, BOS included.
        context: Tokens shown on either side.
        tokens: Tokens read per language; all if not given.
        batch_size: Documents in a forward pass.
        skip: Positions at the start of every document that are left out: 1 is BOS, whose activations are outliers.
        output_tokens: Output tokens promoted and suppressed, each; 0 for none.
        progress: Show a progress bar on stderr.

    Returns:
        One per neuron, by layer and index.

    Raises:
        LnbenchError: neurons that the model does not have, an unsupported model, no text, activations that are not
            finite numbers.
    """
    if site not in NEURON_SITES:
        raise unknown("site", site, NEURON_SITES, "Contexts are found for neurons")
    for name, value, least in (("top", top, 1), ("context", context, 0), ("output_tokens", output_tokens, 0)):
        if value < least:
            raise LnbenchError(f"{name} must be at least {least}, not {value}")
    sites = locate(model)
    chosen = {layer: indices.cpu().long() for layer, indices in sorted(neurons.items()) if len(indices)}
    for layer, indices in chosen.items():
        width = sites.widths[layer] if 0 <= layer < sites.layers else 0
        if int(indices.min()) < 0 or int(indices.max()) >= width:
            raise LnbenchError(
                f"neuron {int(indices.max())} of layer {layer} is none of this model's, which has {sites.layers} "
                f"layers, {width} neurons in that one: the set belongs to another model"
            )
        if any(isinstance(bank, ExpertsBank) for bank in sites.in_layer(layer)):
            raise LnbenchError(
                f"layer {layer} of this {type(sites.model).__name__} has experts, whose neurons see only the tokens "
                "that are routed to them; contexts are found for neurons of layers without experts"
            )
    by_language = texts if isinstance(texts, Mapping) else {TEXT: texts}
    heaps = [
        _Heap(bank, own, top)
        for layer, indices in chosen.items()
        for bank in sites.dense_in(layer)
        if len(own := bank.own(indices))
    ]
    with _Pass(sites, heaps, site, skip) as reading, Bar(unit="tok", disable=not progress) as bar:
        for language, documents in by_language.items():
            bar.set_description(language)
            for block in blocks(documents, tokenizer, length, batch_size, tokens, mode="truncate"):
                bar.update(reading.read(language, *block))
    lens = lens_logits(sites, chosen) if output_tokens else {}
    words = _Words(tokenizer, output_tokens)
    found = []
    for heap in heaps:
        for number, index in enumerate((heap.neurons + heap.bank.start).tolist()):
            examples = (
                _example(tokenizer, reading.rows[row], position, value, context, skip)
                for value, row, position in heap.places(number)
            )
            logits = None
            if lens:
                place = int((chosen[heap.bank.layer] == index).nonzero()[0])
                logits = lens[heap.bank.layer][place] * heap.sign(number)
            found.append(
                NeuronExamples(
                    layer=heap.bank.layer,
                    index=index,
                    examples=tuple(examples),
                    rates={code: float(heap.positive[code][number]) / n for code, n in heap.tokens.items()},
                    means={code: float(heap.sums[code][number]) / n for code, n in heap.tokens.items()},
                    promoted=words.highest(logits) if logits is not None else (),
                    suppressed=words.highest(logits, lowest=True) if logits is not None else (),
                )
            )
    return sorted(found, key=lambda neuron: (neuron.layer, neuron.index))


@dataclass(frozen=True)
class _Row:
    language: str
    document: int
    ids: list[int]


class _Heap:
    """The highest activations so far of some neurons of one bank, and what their rates are made from."""

    def __init__(self, bank: Bank, neurons: Tensor, top: int) -> None:
        self.bank, self.neurons, self.top = bank, neurons, top
        self.values = torch.full((0, len(neurons)), -torch.inf)
        self.rows = torch.zeros((0, len(neurons)), dtype=torch.long)
        self.positions = torch.zeros((0, len(neurons)), dtype=torch.long)
        self.products = torch.zeros((0, len(neurons)))
        self.tokens: Counter[str] = Counter()
        self.positive: dict[str, Tensor] = {}
        self.sums: dict[str, Tensor] = {}

    def take(self, language: str, values: Tensor, products: Tensor, counted: Tensor, first: int) -> None:
        """Take in a batch, ``[visits, rows, length, neurons]``, whose first row has the number ``first``."""
        own = values[:, counted].flatten(0, 1)
        if not torch.isfinite(own).all():
            raise LnbenchError(
                f"activations in layer {self.bank.layer} on text of {language!r} are not finite numbers; load the "
                "model with dtype=bfloat16 or float32"
            )
        zero = torch.zeros(len(self.neurons), dtype=torch.float64)
        self.tokens[language] += len(own)
        self.positive[language] = self.positive.get(language, zero) + (own > 0).sum(0)
        self.sums[language] = self.sums.get(language, zero) + own.double().sum(0)
        highest, visit = values.masked_fill(~counted.unsqueeze(-1), -torch.inf).max(dim=0)
        best, position = highest.max(dim=1)
        rows = torch.arange(first, first + len(best)).unsqueeze(1).expand_as(best)
        at_visit = products.gather(0, visit.unsqueeze(0))[0].gather(1, position.unsqueeze(1)).squeeze(1)
        kept = (self.values, self.rows, self.positions, self.products)
        joined = [torch.cat(pair) for pair in zip(kept, (best, rows, position, at_visit), strict=True)]
        order = joined[0].sort(dim=0, descending=True, stable=True).indices[: self.top]
        self.values, self.rows, self.positions, self.products = (part.gather(0, order) for part in joined)

    def places(self, number: int) -> Iterator[tuple[float, int, int]]:
        """Yield value, row and position of one neuron's highest activations above 0."""
        columns = (self.values[:, number], self.rows[:, number], self.positions[:, number])
        for value, row, position in zip(*(column.tolist() for column in columns), strict=True):
            if value > 0:
                yield value, row, position

    def sign(self, number: int) -> int:
        """Return whether the down projection reads a neuron with its own sign, or the opposite, in its top contexts."""
        active = self.values[:, number] > 0
        return -1 if float(self.products[active, number].sum()) < 0 else 1


class _Pass(ExitStack):
    """One pass over text for all neurons: the hooks, and what is read so far."""

    def __init__(self, sites: Sites, heaps: Sequence[_Heap], site: str, skip: int) -> None:
        super().__init__()
        self.sites, self.heaps, self.site, self.skip = sites, heaps, site, skip
        self.rows: dict[int, _Row] = {}
        self.documents: Counter[str] = Counter()
        self._waiting: dict[int, Tensor] = {}
        self._seen: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def __enter__(self) -> Self:
        super().__enter__()
        for context in (evaluating(self.sites.model), eager(), torch.inference_mode()):
            self.enter_context(context)
        for number, heap in enumerate(self.heaps):
            handle = self.enter_context(Handle())
            self.sites.observe_bank(heap.bank, partial(self._observe, number, heap), handle)
            down = self.sites.model.get_submodule(heap.bank.after)
            handle.add(tap_module(down, "input", partial(self._note_product, number, heap)))
        return self

    def _observe(self, number: int, heap: _Heap, pre: Tensor, post: Tensor) -> None:
        values = pre if self.site == PRE else post
        self._waiting[number] = values[..., heap.neurons.to(values.device)]

    def _note_product(self, number: int, heap: _Heap, product: Tensor) -> None:
        # A bank's modules may run for other layers too.
        if number in self._waiting:
            product = product.transpose(0, 1) if heap.bank.length_first else product
            own = product[..., heap.neurons.to(product.device)]
            self._seen.setdefault(number, []).append((self._waiting.pop(number), own))

    def read(self, language: str, ids: Tensor, mask: Tensor) -> int:
        """Read a batch of documents, padded on the right, and return its counted tokens."""
        counted = mask.bool() & (mask.cumsum(1) > self.skip)
        first = self.documents.total()
        for row, own in enumerate(ids):
            self.rows[first + row] = _Row(language, self.documents[language] + row, own[mask[row].bool()].tolist())
        self.documents[language] += len(ids)
        self._seen.clear()
        device = input_device(self.sites.model)
        body = transformer_body(self.sites.model)
        body(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False)
        for number, heap in enumerate(self.heaps):
            if number not in self._seen:
                raise LnbenchError(f"layer {heap.bank.layer} ({heap.bank.path}) did not run on text of {language!r}")
            visits = [[part.reshape(*ids.shape, -1).float().cpu() for part in pair] for pair in self._seen[number]]
            values, products = (torch.stack(parts) for parts in zip(*visits, strict=True))
            heap.take(language, values, products, counted, first)
        if len(self.rows) > _KEPT_ROWS:
            needed = set().union(*(heap.rows.flatten().tolist() for heap in self.heaps))
            self.rows = {number: self.rows[number] for number in needed}
        return int(counted.sum())


def _example(tokenizer: Any, row: _Row, position: int, value: float, context: int, skip: int) -> Example:
    ids = row.ids

    def text(begin: int, end: int) -> str:
        return str(tokenizer.decode(ids[begin:end], skip_special_tokens=True))

    begin, end = max(0, position - context), position + 1 + context
    whole = text(begin, end)
    # A token can be part of a character: the character is then shown as the token.
    before = _common(text(begin, position).rstrip(_PART), whole)
    upto = next(
        (read for stop in range(position + 1, position + 5) if not (read := text(begin, stop)).endswith(_PART)), whole
    )
    shown = _common(upto, whole)
    return Example(
        value=value,
        language=row.language,
        document=row.document,
        position=position - skip,
        before=before.lstrip(_PART),
        token=shown[len(before) :],
        after=whole[max(len(shown), len(before)) :].rstrip(_PART),
    )


def _common(shorter: str, longer: str) -> str:
    """Return the beginning that two texts share."""
    size = next(
        (place for place, (one, other) in enumerate(zip(shorter, longer, strict=False)) if one != other),
        min(len(shorter), len(longer)),
    )
    return shorter[:size]


class _Words:
    """Output tokens as text, without control tokens."""

    def __init__(self, tokenizer: Any, count: int) -> None:
        self.tokenizer, self.count = tokenizer, count
        self.left_out = sorted({*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()})

    def highest(self, logits: Tensor, *, lowest: bool = False) -> tuple[tuple[str, float], ...]:
        """Return the tokens with the highest (or lowest) logits, each with its logit."""
        scores = (-logits if lowest else logits).clone()
        scores[len(self.tokenizer) :] = -torch.inf
        scores[[number for number in self.left_out if number < len(scores)]] = -torch.inf
        values, ids = scores.topk(min(self.count, int(torch.isfinite(scores).sum())))
        pairs = zip(values.tolist(), ids.tolist(), strict=True)
        return tuple((str(self.tokenizer.decode([number])), -value if lowest else value) for value, number in pairs)
