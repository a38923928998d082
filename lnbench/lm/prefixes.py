"""Requests of one document that begin alike: their common beginning is run once, and continued from its KV cache."""

from __future__ import annotations

import inspect
import logging
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from lnbench.errors import LnbenchError
from lnbench.lm.scoring import TokenRow
from lnbench.model.logits import logits_and_cache, logits_at, pad_right
from lnbench.model.sites import unwrap

log = logging.getLogger(__name__)
_LEAST = 4
"""Common tokens below which a second forward pass costs more than it saves."""
_TOLERANCES = {torch.float32: 1e-3, torch.float64: 1e-3}
_TOLERANCE = 0.5
"""Nats by which a token's log-likelihood may differ from that of a whole forward pass: matrices of other shapes are
rounded in another order, in 16 bits a good deal."""

Reading = Callable[[Tensor, Tensor], AbstractContextManager[None]]
"""``(real, counted)``: the tokens of the next forward pass that an override changes, and how often each counts."""


@dataclass(frozen=True)
class Family:
    """Rows with a common beginning.

    Args:
        numbers: Their places among all rows.
        rows: The rows.
        prefix: Tokens that they have in common, fewer than any of them has.
    """

    numbers: tuple[int, ...]
    rows: tuple[TokenRow, ...]
    prefix: int

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(len(row.tokens) for row in self.rows)


def families(rows: Sequence[TokenRow], documents: Sequence[Hashable], positions: str) -> list[Family]:
    """Return rows by what they share; one that shares nothing worth it is a family of its own with no prefix.

    Args:
        rows: The requests' rows.
        documents: The document of each.
        positions: Which tokens are changed: common tokens are shared as far as they are changed alike.
    """
    of_document: dict[Hashable, list[int]] = defaultdict(list)
    for number, document in enumerate(documents):
        of_document[document].append(number)
    found = []
    for numbers in of_document.values():
        members = [rows[number] for number in numbers]
        prefix = _common(members, positions)
        if len(members) > 1 and prefix >= _LEAST:
            found.append(Family(tuple(numbers), tuple(members), prefix))
        else:
            found += [Family((number,), (rows[number],), 0) for number in numbers]
    return found


def _common(rows: Sequence[TokenRow], positions: str) -> int:
    """Return how many first tokens are equal and changed alike, leaving at least one token of every row."""
    bounds = [row.changed(positions) for row in rows]
    most = min(len(row.tokens) for row in rows) - 1
    alike = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*(row.tokens[:most] for row in rows), strict=True))
    prefix = sum(1 for _ in alike)
    # Where a row's changed tokens begin or end, others' must too.
    edges = {edge for bound in bounds for edge in bound if edge < prefix}
    apart = (edge for edge in sorted(edges) if len({first <= edge < end for first, end in bounds}) > 1)
    return next(apart, prefix)


def batches(found: Sequence[Family], size: int) -> Iterator[list[Family]]:
    """Yield families, longest first, so many at a time that ``size`` rows are not exceeded, but at least one."""
    batch: list[Family] = []
    for family in sorted(found, key=lambda family: (family.prefix == 0, -family.longest, family.rows[0].tokens)):
        kind_changes = batch and (batch[0].prefix == 0) != (family.prefix == 0)
        if batch and (kind_changes or sum(len(each.rows) for each in batch) + len(family.rows) > size):
            yield batch
            batch = []
        batch.append(family)
    if batch:
        yield batch


@dataclass
class SharedPrefixes:
    """Logits of families of rows on one model.

    Args:
        model: A causal LM, in any wrapper.
        device: Where its tokens go.
        positions: Which tokens an override changes.
        reading: Enters what an override is to know of a forward pass.
    """

    model: Any
    device: torch.device
    positions: str
    reading: Reading

    def logits(self, batch: Sequence[Family], counts: Sequence[Tensor]) -> dict[int, Tensor]:
        """Return number of a row → logits ``[scored, vocabulary]`` of its scored positions.

        Args:
            batch: Families, each with a prefix.
            counts: Per row of all rows, how often each token counts.

        Raises:
            LnbenchError: the model keeps no cache that can be continued for several rows.
        """
        prefixes = [family.prefix for family in batch]
        width = max(prefixes)
        pads = torch.tensor([width - prefix for prefix in prefixes], device=self.device)
        places = torch.arange(width, device=self.device) - pads[:, None]
        mask = places >= 0
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        counted = torch.zeros(len(batch), width, dtype=torch.long)
        for place, family in enumerate(batch):
            start = width - family.prefix
            ids[place, start:] = torch.tensor(family.rows[0].tokens[: family.prefix])
            counted[place, start:] = torch.stack([counts[number][: family.prefix] for number in family.numbers]).sum(0)
        scored_from = [min(len(row.tokens) - row.scored for row in family.rows) for family in batch]
        wanted = mask & (places >= torch.tensor(scored_from, device=self.device)[:, None])
        first, end = zip(*(family.rows[0].changed(self.positions) for family in batch), strict=True)
        real = self._within(places, first, end) & mask
        with self.reading(real, counted.to(self.device)):
            of_prefixes, cache = logits_and_cache(
                self.model,
                ids.to(self.device),
                wanted,
                least=1,
                attention_mask=mask.long(),
                use_cache=True,
                **self._positions(places.clamp_min(0)),
            )
        if not hasattr(cache, "reorder_cache"):
            raise LnbenchError(
                f"{type(unwrap(self.model)).__name__} keeps no cache that several requests can continue; leave "
                "share_prefix out"
            )
        owners = torch.tensor([place for place, family in enumerate(batch) for _ in family.rows], device=self.device)
        cache.reorder_cache(owners)
        of_suffixes = self._suffixes(batch, counts, mask[owners], cache)
        before = dict(zip(range(len(batch)), torch.split(of_prefixes, wanted.sum(1).tolist()), strict=True))
        joined = {}
        for (number, row, suffix), owner in zip(of_suffixes, owners.tolist(), strict=True):
            shared = max(0, batch[owner].prefix - (len(row.tokens) - row.scored))
            own = before[owner]
            joined[number] = torch.cat([own[len(own) - shared :], suffix])
        return joined

    def _suffixes(
        self, batch: Sequence[Family], counts: Sequence[Tensor], mask: Tensor, cache: Any
    ) -> list[tuple[int, TokenRow, Tensor]]:
        """Run what follows the prefixes; return each row with its number and the logits scored there."""
        members = [
            (number, row, family.prefix)
            for family in batch
            for number, row in zip(family.numbers, family.rows, strict=True)
        ]
        ids, present = (part.to(self.device) for part in pad_right([row.tokens[prefix:] for _, row, prefix in members]))
        counted = pad_right([counts[number][prefix:] for number, _, prefix in members])[0].to(self.device)
        starts = torch.tensor([prefix for _, _, prefix in members], device=self.device)
        places = starts[:, None] + torch.arange(ids.shape[1], device=self.device)
        first, end = zip(*(row.changed(self.positions) for _, row, _ in members), strict=True)
        scored_from = torch.tensor([len(row.tokens) - row.scored for _, row, _ in members], device=self.device)
        wanted = present & (places >= scored_from[:, None])
        with self.reading(self._within(places, first, end) & present, counted):
            logits, _ = logits_and_cache(
                self.model,
                ids,
                wanted,
                least=1,
                attention_mask=torch.cat([mask, present], dim=1).long(),
                past_key_values=cache,
                use_cache=True,
                **self._positions(places),
            )
        parts = torch.split(logits, wanted.sum(1).tolist())
        return [(number, row, part) for (number, row, _), part in zip(members, parts, strict=True)]

    def check(self, batch: Sequence[Family], found: dict[int, Tensor]) -> float:
        """Return by how many nats a token's likelihood differs from that of a whole forward pass, in one row.

        The row whose prefix is padded most is tried, as padding is what a model may read wrongly.
        """
        family = min(batch, key=lambda family: family.prefix)
        number, row = family.numbers[-1], family.rows[-1]
        ids = torch.tensor([row.tokens], device=self.device)
        places = torch.arange(ids.shape[1], device=self.device)[None]
        first, end = row.changed(self.positions)
        with self.reading(self._within(places, [first], [end]), torch.zeros_like(ids)):
            whole = logits_at(self.model, ids, places >= ids.shape[1] - row.scored)
        both = (logits.float().log_softmax(-1) for logits in (found[number], whole))
        one, other = both
        likely = other.argmax(-1, keepdim=True)
        return float((one.gather(1, likely) - other.gather(1, likely)).abs().max())

    def tolerance(self, logits: Tensor) -> float:
        """Return the nats that :meth:`check` may find."""
        return _TOLERANCES.get(logits.dtype, _TOLERANCE)

    def _positions(self, places: Tensor) -> dict[str, Tensor]:
        """Return the positions as the model takes them; others work them out from the mask."""
        takes = "position_ids" in inspect.signature(unwrap(self.model).forward).parameters
        return {"position_ids": places} if takes else {}

    def _within(self, places: Tensor, first: Sequence[int], end: Sequence[int]) -> Tensor:
        low, high = (torch.tensor(bound, device=self.device)[:, None] for bound in (first, end))
        return (places >= low) & (places < high)
