"""lm-eval's ``hf`` model, as it turns requests into tokens: what is scored, what is cut, and where a text begins."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lm_eval.models.utils import normalize_gen_kwargs

from lnbench.errors import LnbenchError
from lnbench.lm.compat import PatchedHFLM
from lnbench.lm.head import separated
from lnbench.lm.prompts import Pair, PromptAccount, nothing_left, too_long
from lnbench.model.logits import pad_right
from lnbench.special_tokens import cut_left, with_prefix

log = logging.getLogger(__name__)


class EncodingLM(PatchedHFLM):
    """``hf`` with one rule for BOS, and no request without a token to score; it counts what becomes of prompts."""

    prompts: PromptAccount
    _prefix_given: int | None = None
    _rolled: dict[str, list[int]] = {}  # noqa: RUF012 - replaced, never changed
    """Texts of rolling likelihoods, as tokens, while these are computed."""

    def _create_tokenizer(self, *args: Any, **options: Any) -> None:
        super()._create_tokenizer(*args, **options)
        if {self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, self._prefix_given} == {None}:
            # Here, before the weights are loaded.
            log.warning(
                "this tokenizer has neither a BOS token (bos_token) nor an EOS token (eos_token): requests without a "
                "prompt and rolling likelihoods need the id of one, prefix_token_id=… in the model arguments, and text "
                "that is packed in blocks needs an EOS token"
            )

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **options: Any) -> list[int]:
        """Encode as lm-eval does; :data:`~lnbench.lm.head.SEPARATOR` in a text is the tokenizer's own end of text."""
        if (rolled := self._rolled.get(string)) is not None:
            return rolled
        text = separated(string, self.tokenizer)
        if self.prefix_token_id is None and add_special_tokens is None:
            # Upstream looks at the start of every text for that token, which this tokenizer does not have.
            add_special_tokens = True if self.add_bos_token is None else self.add_bos_token
        return list(super().tok_encode(text, add_special_tokens, **options))

    def tok_decode(self, tokens: Any, *args: Any, **options: Any) -> Any:
        """Decode as lm-eval does; the EOS that a tokenizer does not have is no stop sequence."""
        return None if tokens is None else super().tok_decode(tokens, *args, **options)

    def tok_batch_encode(
        self,
        strings: Sequence[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode prompts of generations, each as :meth:`tok_encode` does; one that is cut keeps its BOS."""
        rows = [self.tok_encode(text) for text in strings]
        if truncation:
            rows = [row[: self.tokenizer.model_max_length] for row in rows]
        if not all(rows):
            rows = [row or with_prefix(row, self.prefix_token_id, "an empty prompt") for row in rows]
        if left_truncate_len:
            rows = [cut_left(row, left_truncate_len, self.prefix_token_id) for row in rows]
        ids, real = pad_right(rows, self.tokenizer.pad_token_id)
        if padding_side == "left":
            shifts = ids.shape[1] - real.sum(1)
            places = (torch.arange(ids.shape[1]) - shifts[:, None]) % ids.shape[1]
            ids, real = ids.gather(1, places), real.gather(1, places)
        return ids, real.long()

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Encode as lm-eval does; an answer that has no token left of its own is encoded by itself.

        Upstream gives such an answer, all of which is in one token with the prompt's end, a likelihood of 1.
        """
        pair = self._pair(context, continuation)
        return pair.context, pair.continuation

    def _pair(self, context: str, continuation: str) -> Pair:
        if context == "":
            own = self.tok_encode(continuation, add_special_tokens=False)
            whole = with_prefix(own, self.prefix_token_id, "a text without a prompt")
            return Pair(whole[:1], whole[1:])
        stripped = context.rstrip()
        before, whole = self.tok_encode(stripped), self.tok_encode(context + continuation)
        after, shared = whole[len(before) :], whole[: len(before)] != before
        if not before:
            before = with_prefix(before, self.prefix_token_id, "a prompt of white space")
        if not after and continuation:
            after = self.tok_encode(context[len(stripped) :] + continuation, add_special_tokens=False)
            return Pair(before, after, own_tokens=True)
        return Pair(before, after, shared_token=shared)

    @contextmanager
    def _rolling(self, requests: Sequence[Any]) -> Iterator[None]:
        """Encode the texts of rolling likelihoods without the prefix that upstream puts before them in this block."""
        rolled = {}
        for request in requests:
            tokens = self.tok_encode(request.args[0])
            rolled[request.args[0]] = with_prefix(tokens, self.prefix_token_id, "a rolling likelihood")[1:]
            if not rolled[request.args[0]]:
                raise nothing_left(request)
            self.prompts.add(str(request.task_name), len(tokens), len(tokens))
        self._rolled = rolled
        try:
            yield
        finally:
            self._rolled = {}

    def _scored(self, request: Any) -> tuple[list[int], list[int]]:
        """Return a request's context and continuation as tokens, and count it."""
        context, continuation = request.args
        pair = self._pair(context, continuation)
        if not pair.continuation:
            raise nothing_left(request)
        if len(pair.continuation) > self.max_length:
            raise too_long(request, len(pair.continuation), self.max_length)
        # The last token is predicted, and not read.
        length, limit = len(pair.context) + len(pair.continuation), self.max_length + 1
        flags = {"own_tokens": pair.own_tokens, "shared_token": pair.shared_token}
        self.prompts.add(str(request.task_name), length, limit, **flags)
        return pair.context, pair.continuation

    def _count_prompts(self, requests: Sequence[Any], limit: int, *, warn: bool = True) -> None:
        for request in requests:
            self.prompts.add(str(request.task_name), len(self.tok_encode(request.args[0])), limit)
        if warn:
            self.prompts.warn(sorted({str(request.task_name) for request in requests}), limit)

    def _count_generations(self, requests: Sequence[Any]) -> None:
        for request in requests:
            new = normalize_gen_kwargs(request.args[1], self.max_gen_toks)["max_gen_toks"]
            if new >= self.max_length:
                raise LnbenchError(
                    f"task {request.task_name!r} generates up to {new} tokens, which leaves nothing for the prompt "
                    f"in the model's max_length={self.max_length}: pass --gen_kwargs max_gen_toks=…"
                )
            self._count_prompts([request], self.max_length - new, warn=False)
        self.prompts.warn(sorted({str(request.task_name) for request in requests}), self.max_length)
