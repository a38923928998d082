"""Text in the chat template: what rows hold, and what perplexity leaves out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lnbench.corpora.packing import blocks
from lnbench.perplexity.slices import in_frame
from lnbench.special_tokens import frame_tokens
from lnbench.statistics.corpus_statistics import Reading
from tests.support.messages import refused
from tests.support.tiny import tokenizer

TEXTS = ["ab", "cde", "नम"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</>{% endfor %}"
    "{% if add_generation_prompt %}<m>{% endif %}"
)


@pytest.fixture
def words() -> Any:
    own = tokenizer()
    own.chat_template = TEMPLATE
    return own


def test_truncated_rows_are_what_the_template_makes(words: Any) -> None:
    rows = [
        row[mask.bool()].tolist()
        for ids, mask in blocks(TEXTS, words, 40, 2, mode="truncate", chat=True)  # type: ignore[misc]
        for row, mask in zip(ids, mask, strict=True)
    ]
    made = [
        words.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
        for text in TEXTS
    ]
    assert rows == [words(text, add_special_tokens=False)["input_ids"] for text in made]


def test_packed_rows_have_the_template_between_documents(words: Any) -> None:
    (row,) = (row for batch in blocks(TEXTS, words, 80, chat=True) for row in batch)
    assert words.decode(row) == "<bos><user>ab</><m><user>cde</><m><user>नम"


def test_a_row_without_room_and_a_missing_template_are_named(words: Any) -> None:
    with refused(13):
        list(blocks(TEXTS, words, 13, mode="truncate", chat=True))
    with refused("chat", "template"):
        list(blocks(TEXTS, tokenizer(), 40, chat=True))


def test_the_templates_tokens_are_found_also_where_a_row_cuts_them(words: Any) -> None:
    frame = frame_tokens(words)
    whole = words("<user>ab</><m><user>cde</><m>", add_special_tokens=False)["input_ids"]
    for begin in (0, 3, 9):
        for end in (len(whole), len(whole) - 2):
            row = torch.tensor(whole[begin:end])
            kept = words.decode(row[~in_frame(row, frame)])
            assert kept == ("abcde" if begin < 6 else "cde")
    assert not in_frame(torch.tensor(whole), None).any()


def test_it_is_recorded(tmp_path: Any) -> None:
    (tmp_path / "hi.txt").write_text("नमस्ते\n", encoding="utf-8")
    reading = Reading(corpus=str(tmp_path / "{lang}.txt"))
    assert "chat" not in reading.provenance("hi")
    assert reading.model_copy(update={"chat": True}).provenance("hi")["chat"] is True
