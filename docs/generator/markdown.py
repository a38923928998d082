"""Markdown from what is written for a terminal or an editor: code, links, tables, docstrings."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence

_NOTICE = "<!-- Written by `python -m docs.generator` from the code: change it there, and run `make docs`. -->"
NOTHING = "–"
"""What stands for a default that there is none of."""

TERMS = {
    r"NeuronSet files?": "../files.md#neuronset",
    r"Statistics folder": "../files.md#statistics",
    r"[Cc]orpus pattern": "../corpora.md",
    r"[Cc]lassification head": "../files.md#classification-head",
    r"random neurons": "../method.md#random",
    r"95 % interval": "../method.md#significance",
}
"""Words whose first mention in a text becomes a link, from a page in ``reference/``."""

_CODE_SPAN = re.compile(r"(`[^`]+`)")
_ROLE = re.compile(r":\w+:`~?([^`]+)`")
_CODE = re.compile(
    r"(?<![\w`/])("
    r"--[a-z][\w-]*"  # an option
    r"|lnbench (?:demo|stats|select|neurons|eval|tasks|sweep|leaderboard|finetune|plugins|doctor|ppl|figures|report|"
    r"reproduce)(?: (?:merge|show|inspect|list|overlap))?"
    r"|[\w./-]*\{lang\}(?:[\w./]*\w)?"
    r"|[\w:.-]+=[^\s;)]*[^\s,;.)\]]"  # name=value
    r"|[a-z]{2}(?:\+[a-z]{2})+"  # languages
    r"|[\w./-]*\.(?:jsonl?(?:\.gz)?|csv|md|pth|ya?ml|txt|safetensors|html|png|svg|pdf)"
    r"|[a-z]+(?:_[a-z]+)+"
    r")(?!\w)"
)
_SECTION = re.compile(r"^(Args|Returns|Raises|Attributes|Yields):\s*(.*)$")
_ENTRY = re.compile(r"^(\*{0,2}\w[\w., ]*):\s+(.*)$")


def page(title: str, body: str) -> str:
    """A generated page."""
    return f"{_NOTICE}\n\n# {title}\n\n{body.strip()}\n"


def spoken(text: str) -> str:
    """One paragraph with its code in backticks and its terms linked."""
    text = _ROLE.sub(r"`\1`", " ".join(text.split())).replace("``", "`")
    parts = _CODE_SPAN.split(text)
    parts[::2] = [_CODE.sub(r"`\1`", part) for part in parts[::2]]
    return _linked("".join(parts))


def _linked(text: str) -> str:
    for term, target in TERMS.items():
        parts = _CODE_SPAN.split(text)
        for number in range(0, len(parts), 2):
            parts[number], found = re.subn(rf"(?<!\[)\b({term})\b", rf"[\1]({target})", parts[number], count=1)
            if found:
                break
        text = "".join(parts)
    return text


def sentence(text: str, choices: Sequence[str] = ()) -> str:
    """As :func:`spoken`, with a capital and a full stop; and with the words that can be chosen."""
    if not text:
        return ""
    text = spoken(_choosing(text, choices))
    if len(choices) > 1 and not any(f"`{choice}`" in text for choice in choices):
        text = text.removesuffix(".")
        text += f" ({_listed(choices)})" if ":" in text else f": {_listed(choices)}"
    capital = text if text.startswith("lm-eval") else re.sub(r"^\[?\w", lambda first: first.group().upper(), text)
    return capital + ("" if text.endswith((".", "…")) else ".")


def _choosing(text: str, choices: Sequence[str]) -> str:
    for choice in choices:
        text = re.sub(rf"(?<!\w){re.escape(choice)}(?=:)", f"``{choice}``", text)
    return text


def _listed(choices: Sequence[str]) -> str:
    return f"{', '.join(map(code, choices[:-1]))} or {code(choices[-1])}"


def code(text: object) -> str:
    """A literal."""
    return f"`{text}`"


def block(text: str, language: str = "sh") -> str:
    """A fenced block."""
    return f"```{language}\n{text}\n```"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; bars in cells are escaped."""
    lines = [list(head), ["---"] * len(head), *map(list, rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def paragraphs(*parts: str) -> str:
    """What is not empty, with an empty line between."""
    return "\n\n".join(part for part in parts if part)


def docstring(text: str | None) -> str:
    """A docstring in Google's style: its paragraphs, then its sections as lists."""
    return paragraphs(*_parts(inspect.cleandoc(text or "")))


def _parts(text: str) -> Iterator[str]:
    for part in re.split(r"\n(?:[ \t]*\n)+(?! )", text):
        first, _, rest = part.partition("\n")
        section = _SECTION.match(first)
        if section is None:
            yield _paragraph(part)
        else:
            told = "\n".join(filter(None, [section.group(2), textwrap.dedent(rest)]))
            yield f"**{section.group(1)}**\n\n{_entries(told)}"


def _paragraph(text: str) -> str:
    """Text as it is; what is indented or listed keeps its lines."""
    if re.search(r"^(?:    |- )", text, re.MULTILINE):
        return text.replace("``", "`")
    return spoken(text)


def _entries(text: str) -> str:
    """``name: meaning`` as a list; the lines of one entry that go on are indented."""
    entries = [" ".join(entry.split()) for entry in re.split(r"\n(?! )", text) if entry.strip()]
    named = [_ENTRY.match(entry) for entry in entries]
    if not any(named):
        return spoken(text)
    return "\n".join(
        f"- {code(found.group(1))}: {spoken(found.group(2))}" if found else f"- {spoken(entry)}"
        for found, entry in zip(named, entries, strict=True)
    )
