"""How a judge is asked to rate an answer, and how its rating is read.

The rule is CLaS-Bench's (Gurgurov et al. 2026, https://arxiv.org/abs/2601.08331), in our words: relevance and coherence
from 0 to 2, whatever the language. Its judge wrote with temperature 0.7; here it is greedy, so that a rating is
repeatable.
"""

from __future__ import annotations

import re

INSTRUCTION = """\
You grade answers that language models gave to open questions.

The answer may be in another language than the question. That is no fault: neither reward nor punish the choice of \
language. Look at two things only: does the text answer the question, and is it readable, connected text rather than \
noise or endless repetition?

2 - it plainly answers the question and reads as sensible text
1 - it has to do with the question, but is incomplete, partly beside the point, or of little use
0 - it has nothing to do with the question, or is not usable as text

First give your reason in one or two sentences. Then write the grade as the last line, in double square brackets: \
[[0]], [[1]] or [[2]].

Question ({source}):
{question}

Answer:
{answer}
"""
_MARKED = re.compile(r"\[\[\s*([012])\s*\]\]")
_LAST = re.compile(r"(?<![\d.])([012])\s*[.\])*]*\s*$")
"""A grade without brackets, where a judge's text ends with it."""


def instruction(question: str, answer: str, source: str) -> str:
    """Return what a judge is asked about one answer to a question in the language ``source``."""
    # Not by format(), which would read braces in the texts.
    parts = {"{source}": source, "{question}": question, "{answer}": answer.strip() or "(the answer is empty)"}
    return re.sub("|".join(map(re.escape, parts)), lambda match: parts[match[0]], INSTRUCTION)


def rating_of(said: str) -> int | None:
    """Return the grade in what a judge wrote: the last in double brackets, else a digit at its end; None if none is."""
    marked = _MARKED.findall(said)
    last = _LAST.search(said.strip())
    return int(marked[-1]) if marked else int(last[1]) if last else None
