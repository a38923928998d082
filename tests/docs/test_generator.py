"""What the generator makes of text, types and signatures that it is given."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest
import typer
from pydantic import BaseModel, Field

from docs.generator.commands import every_command
from docs.generator.markdown import docstring, sentence, spoken, table
from docs.generator.models import choices_in, default_text, fields_table, parts_of, spoken_type, with_parts
from docs.generator.python_api import attribute_docstrings, signature
from lnbench.demo import CORPUS


@pytest.mark.parametrize(
    ("plain", "markdown"),
    [
        ("a file with {lang}, as data/{lang}.jsonl.gz.", "A file with `{lang}`, as `data/{lang}.jsonl.gz`."),
        ("name or name:key=value, e.g. lape:bar=0.9", "Name or `name:key=value`, e.g. `lape:bar=0.9`."),
        ("as en+hi; see lnbench stats merge", "As `en+hi`; see `lnbench stats merge`."),
        ("Give --out, or top_fraction.", "Give `--out`, or `top_fraction`."),
        ("see :class:`lnbench.Override` and ``x_y``", "See `lnbench.Override` and `x_y`."),
        ("a NeuronSet file, or a NeuronSet file", "A [NeuronSet file](../files.md#neuronset), or a NeuronSet file."),
        ("corpus pattern", "[Corpus pattern](../corpora.md)."),
        ("", ""),
    ],
)
def test_a_sentence(plain: str, markdown: str) -> None:
    assert sentence(plain) == markdown


def test_choices_are_told_once() -> None:
    assert sentence("pack: joined; cut: cut off", ["pack", "cut"]) == "`pack`: joined; `cut`: cut off."
    assert sentence("where it is read", ["post", "pre"]) == "Where it is read: `post` or `pre`."
    assert sentence("longer ones: as it is told", ["cut", "drop"]) == "Longer ones: as it is told (`cut` or `drop`)."
    assert sentence("as lm-eval's", ["auto"]) == "As lm-eval's."


def test_a_docstring_keeps_its_sections() -> None:
    text = """Do it.

    More of
    it.

    Args:
        first: What is
            told over two lines.
        second: Another.

    Returns:
        The ``thing``.

    Raises:
        LnbenchError: it cannot be done.
    """
    assert docstring(text) == "\n\n".join(
        [
            *("Do it.", "More of it.", "**Args**", "- `first`: What is told over two lines.\n- `second`: Another."),
            *("**Returns**", "The `thing`.", "**Raises**", "- `LnbenchError`: it cannot be done."),
        ]
    )
    assert docstring(None) == ""


def test_a_bar_in_a_cell_stays_in_it() -> None:
    assert table(("a", "b"), [("x|y", "z")]).splitlines()[-1] == r"| x\|y | z |"


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Leaf(BaseModel):
    """A leaf."""

    colour: Colour = Field(default=Colour.RED, description="its colour")
    inner: Leaf | None = Field(default=None, description="another")


class Tree(BaseModel):
    """A tree."""

    leaves: list[Leaf] = Field(description="top first")
    names: dict[str, int] = Field(default={}, description="how many of each")
    kind: Literal["oak", "ash"] | None = Field(default=None, description="its kind")


def test_models_are_told_with_what_is_inside_them() -> None:
    assert parts_of(Tree) == [Leaf] == parts_of(Tree)
    told = with_parts(Tree, "Trees")
    assert "| `leaves` | list of [Leaf](#leaf) | required | Top first. |" in told
    assert "| `names` | text → whole number | – | How many of each. |" in told
    assert told.count("### Leaf\n\nA leaf.") == 1
    assert "| `kind` | – | Its kind: `oak` or `ash`. |" in fields_table(Tree)


def test_types_and_defaults_in_words() -> None:
    assert choices_in(Annotated[Colour | None, "more"]) == ["red", "blue"]
    assert spoken_type(list[int] | None) == "list of whole number"
    assert spoken_type(bool | Any) == "true or false or anything"
    shown = [default_text(value) for value in (None, [], False, 0, ["a", "b"], CORPUS)]
    assert shown == ["–", "–", "`false`", "`0`", "`a`, `b`", "the embedded text"]


def test_signatures_are_cut_where_they_are_long() -> None:
    def short(first: int, *, second: str = "x") -> None: ...

    def long(
        self: Any, *rest: int, one_long_argument: dict[str, list[int]], another_long_argument: dict[str, list[int]]
    ) -> int:
        return 0

    assert signature("short", short) == "short(first: int, *, second: str = 'x')"
    assert signature("long", long).splitlines() == [
        "long(",
        "    *rest: int,",
        "    one_long_argument: dict[str, list[int]],",
        "    another_long_argument: dict[str, list[int]],",
        ") -> int",
    ]


def test_strings_below_fields_are_found() -> None:
    from lnbench.model.architectures import Architecture

    assert set(attribute_docstrings(Architecture)) == set(Architecture.__annotations__)


def test_a_group_that_runs_by_itself_is_a_command_too() -> None:
    app, group = typer.Typer(), typer.Typer(invoke_without_command=True)
    app.command("one")(lambda: None)
    group.callback()(lambda: None)
    group.command("inner")(lambda: None)
    app.add_typer(group, name="group")
    names = [name for name, _ in every_command(typer.main.get_command(app))]
    assert sorted(names) == ["lnbench group", "lnbench group inner", "lnbench one"]


def test_spoken_leaves_what_is_code_already() -> None:
    assert spoken("`a_b` and a_b and `--x y`") == "`a_b` and `a_b` and `--x y`"
