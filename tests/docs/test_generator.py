"""What the generator makes of text, types and signatures that it is given."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

import pytest
import typer
from pydantic import BaseModel, Field

from docs.generator.markdown import docstring, sentence, table
from docs.generator.models import choices_in, default_of, default_text, fields_table, parts_of, type_text, with_parts
from docs.generator.tasks import members
from lnbench.cli.listing import every_command
from lnbench.settings import TextSource
from tests.support.tasks import languages_of


@pytest.mark.parametrize(
    ("plain", "choices", "markdown"),
    [
        ("as en+hi; see ``lnbench stats``", [], "As en+hi; see `lnbench stats`."),
        ("see :class:`lnbench.Override`\n    for more.", [], "See `lnbench.Override` for more."),
        ("pack: joined; cut: cut off", ["pack", "cut"], "Pack: joined; cut: cut off."),
        ("where it is read", ["post", "pre"], "Where it is read (`post`, `pre`)."),
        ("lm-eval's own", ["auto"], "lm-eval's own."),
        ("", [], ""),
    ],
)
def test_a_sentence(plain: str, choices: list[str], markdown: str) -> None:
    assert sentence(plain, choices) == markdown


def test_a_docstring_is_dedented() -> None:
    assert docstring("Do it.\n\n        The ``thing``.\n    ") == "Do it.\n\nThe `thing`."
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


def test_models_are_described_with_what_is_inside_them() -> None:
    assert parts_of(Tree) == [Leaf] == parts_of(Tree)
    text = with_parts(Tree, "Trees")
    assert "| `leaves` | list of [Leaf](#leaf) | required | Top first. |" in text
    assert "| `names` | `str` → `int` | – | How many of each. |" in text
    assert text.count("### Leaf\n\nA leaf.") == 1
    assert "| `kind` | – | Its kind (`oak`, `ash`). |" in fields_table(Tree)


def test_types_and_defaults_in_words() -> None:
    assert choices_in(Annotated[Colour | None, "more"]) == ["red", "blue"]
    assert type_text(list[int] | None) == "list of `int`"
    assert type_text(bool | str) == "`bool` or `str`"
    shown = [default_text(value) for value in (None, [], False, 0, ["a", "b"])]
    assert shown == ["–", "–", "`false`", "`0`", "`a`, `b`"]
    assert "LNBENCH_DATA" in default_of(TextSource.model_fields["corpus"])


def test_a_group_that_runs_by_itself_is_a_command_too() -> None:
    app, group = typer.Typer(), typer.Typer(invoke_without_command=True)
    app.command("one")(lambda: None)
    group.callback()(lambda: None)
    group.command("inner")(lambda: None)
    app.add_typer(group, name="group")
    names = [name for name, _ in every_command(typer.main.get_command(app))]
    assert sorted(names) == ["lnbench group", "lnbench group inner", "lnbench one"]


def test_languages_of_tasks_are_those_of_the_folder() -> None:
    found = members()
    for family in ("xnli", "xnli_pair", "xquad", "ppl"):
        assert found[f"lnbench_{family}"] == languages_of(family)
