"""The special tokens that a text is prepared with: one rule for Statistics, perplexity, evaluation and fine-tuning.

The rule: a text begins with BOS where its tokenizer puts one there by itself, or where ``add_bos_token`` says so. That
is how lm-eval's ``hf`` encodes prompts, so a text is read in one form on both sides of a comparison. Where the first
token of a text is itself predicted (an empty prompt, rolling likelihoods) and the text does not begin with BOS, one
prefix token is put before it: BOS, or EOS where the tokenizer has no BOS. A text never begins with two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from lnbench.errors import LnbenchError

_CHOSEN = "lnbench_add_bos_token"
"""The attribute of a tokenizer that holds what :func:`follow_bos` was given."""


def follow_bos(tokenizer: Any, add_bos_token: bool) -> None:
    """Make all texts of a tokenizer, those of Statistics too, begin as lm-eval's ``add_bos_token`` says."""
    setattr(tokenizer, _CHOSEN, add_bos_token)


def adds_bos(tokenizer: Any, add_bos_token: bool | None = None) -> bool:
    """Return whether texts begin with BOS.

    Args:
        tokenizer: A Hugging Face tokenizer.
        add_bos_token: As of lm-eval's ``hf``; None: as :func:`follow_bos` was given, else as the tokenizer does.
    """
    if tokenizer.bos_token_id is None:
        return False
    chosen = add_bos_token if add_bos_token is not None else vars(tokenizer).get(_CHOSEN)
    options = {} if chosen is None else {"add_special_tokens": chosen}
    return list(tokenizer("a", **options)["input_ids"])[:1] == [tokenizer.bos_token_id]


def with_prefix(tokens: Sequence[int], prefix: int | None, reason: str) -> list[int]:
    """Return the tokens of a text whose first token has something to be predicted from, and is not predicted itself.

    Args:
        tokens: The text's tokens, with or without BOS.
        prefix: BOS, or what takes its place; None where the tokenizer has neither BOS nor EOS.
        reason: What needs it, for the error.

    Raises:
        LnbenchError: there is no such token.
    """
    if prefix is None:
        raise LnbenchError(
            f"{reason} needs a token to begin with, and this tokenizer has neither a BOS token (bos_token) nor an EOS "
            "token (eos_token): pass the id of one with prefix_token_id=… in the model arguments"
        )
    return list(tokens) if list(tokens[:1]) == [prefix] else [prefix, *tokens]


def cut_left(tokens: list[int], length: int, first: int | None) -> list[int]:
    """Return the last ``length`` tokens; if the text begins with the token ``first`` (BOS), it still does."""
    if len(tokens) <= length:
        return tokens
    keep = tokens[0] == first and length > 1
    return tokens[:1] + tokens[len(tokens) - length + 1 :] if keep else tokens[-length:]


_PLACE = "\u2039text\u203a"
"""Stands for a text inside a chat template; no template holds it."""


def chat_frame(tokenizer: Any) -> tuple[str, str]:
    """Return what a tokenizer's chat template puts before and behind the text of a user's turn.

    The beginning of the model's turn is part of what is behind it.

    Raises:
        LnbenchError: it has no chat template, or one that changes the text.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        raise LnbenchError("chat format was asked for, and this model's tokenizer has no chat template")
    turns = [{"role": "user", "content": _PLACE}]
    whole = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    before, place, after = whole.partition(_PLACE)
    if not place:
        raise LnbenchError("this tokenizer's chat template changes the text of a turn, so it cannot frame a text")
    return before, after


class Frame(NamedTuple):
    """The tokens of a chat template around the text of a user's turn, without BOS at its start."""

    before: list[int]
    after: list[int]
    begins_with_bos: bool


def frame_tokens(tokenizer: Any) -> Frame:
    """Return the tokens that a tokenizer's chat template puts around a user's turn.

    Raises:
        LnbenchError: as :func:`chat_frame`.
    """
    before, after = (list(tokenizer(part, add_special_tokens=False)["input_ids"]) for part in chat_frame(tokenizer))
    begins_with_bos = tokenizer.bos_token_id is not None and before[:1] == [tokenizer.bos_token_id]
    return Frame(before[begins_with_bos:], after, begins_with_bos)


def chat_tokens(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a text in a user's turn, up to where the model's turn begins; BOS as the template has it.

    Raises:
        LnbenchError: as :func:`chat_frame`.
    """
    before, after = chat_frame(tokenizer)
    return list(tokenizer(before + text + after, add_special_tokens=False)["input_ids"])


def padding_of(tokenizer: Any, vocabulary: int | None = None) -> int:
    """Return a token id to fill shorter rows with, which a model of ``vocabulary`` words has.

    Padding is never read, so any token will do.
    """
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id)
    return next((token for token in ids if token is not None and (vocabulary is None or token < vocabulary)), 0)


def eos_of(tokenizer: Any, reason: str) -> int:
    """Return the tokenizer's EOS.

    Raises:
        LnbenchError: it has none.
    """
    if tokenizer.eos_token_id is None:
        raise LnbenchError(f"{reason} needs an EOS token, and this tokenizer has no eos_token")
    return int(tokenizer.eos_token_id)
