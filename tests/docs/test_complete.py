"""Everything that a user can name has its place in the documentation, and says what it means."""

from __future__ import annotations

import inspect
import re
import tomllib
from pathlib import Path
from typing import Protocol

import pytest
from lm_eval.tasks import TaskManager

import lnbench
from docs.generator import pages
from docs.generator.choices import KINDS, builtin
from docs.generator.formats import FORMATS, model
from docs.generator.models import parts_of
from docs.generator.tasks import members
from lnbench import hookspecs
from lnbench.cli.listing import every_command
from lnbench.corpora.readers import READERS
from lnbench.files import tasks_dir
from lnbench.host import kinds
from tests.support import docs_pages as docs

GENERATED = pages()
COMMANDS = dict(every_command(docs.commandline()))
PACKAGE = Path(lnbench.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
YAMLS = [file.read_text(encoding="utf-8") for file in sorted(tasks_dir().rglob("*.yaml"))]
INDEX = TaskManager(include_path=str(tasks_dir()), include_defaults=False)
TASKS = INDEX.all_tasks
HOOKS = [name for name in vars(hookspecs) if name.startswith("lnbench_register_")]
CONTRACTS = [
    name for name, thing in vars(hookspecs).items() if getattr(thing, "_is_protocol", False) and thing is not Protocol
]
METRICS = sorted({name for text in YAMLS for name in re.findall(r"metric: (\w+)", text)})
NOT_FILES = {
    "lnbench.answer_rules:AnswerRules": "howto/own-task.md",
    "lnbench.lm.experiment:Experiment": "reference/model-arguments.md",
    "lnbench.sweeps.spec:Sweep": "reference/sweep-file.md",
    "lnbench.sweeps.spec:ModelSpec": "reference/sweep-file.md",
    "lnbench.sweeps.spec:AdapterSpec": "reference/sweep-file.md",
    "lnbench.finetuning.presets:TrainingSettings": "reference/training-settings.md",
    "lnbench.finetuning.job:FinetuneJob": "reference/cli.md",
    "lnbench.perplexity.request:PerplexityRequest": "reference/cli.md",
}
"""Pydantic models that are no file of JSON, and the page that has their fields; in ``cli.md`` they are options."""
OTHERWISE = {"finetuner": "`lnbench finetune FINETUNER`", "settings": r"^\* `--set\b", "changed": r"^\* `--change\b"}
"""Fields that are not options of their own names, and where they are in place of it."""


# The reference is what the code says


@pytest.mark.parametrize("name", GENERATED)
def test_generated_pages_are_up_to_date(name: str) -> None:
    assert docs.read(name) == GENERATED[name], "run: python -m docs.generator"


@pytest.mark.parametrize("name", [name for name in GENERATED if name.endswith(".md")])
def test_nothing_is_left_unexplained(name: str) -> None:
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in GENERATED[name].splitlines() if line.startswith("|")]
    assert [row[0].strip() for row in rows if not row[-1].strip(" .")] == []
    headings = re.findall(r"^#+ (.+)\n+(?=#+ |\Z)", GENERATED[name], re.MULTILINE)
    followed = [heading for heading in headings if heading not in KINDS.values()]
    assert followed == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example_of_itself(command: str) -> None:
    said = docs.section("reference/cli.md", f"`{command}`")
    assert said
    example = re.split(r"\n#+ ", GENERATED["reference/cli.md"].partition(f"# `{command}`\n")[2])[0]
    # A word in capitals stands for any other.
    words = re.sub(r"[A-Z]{2,}", r"\\S+", command)
    assert re.search(rf"^```sh\n{words}( |$)", example, re.MULTILINE) or command == "lnbench tasks"


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook(hook: str) -> None:
    (argument,) = inspect.signature(getattr(hookspecs, hook)).parameters
    assert f"`{hook}({argument})`" in docs.read("howto/plugins.md")


@pytest.mark.parametrize("kind", CONTRACTS)
def test_every_contract_with_its_arguments(kind: str) -> None:
    for name, method in vars(getattr(hookspecs, kind)).items():
        if inspect.isfunction(method) and not name.startswith("_"):
            arguments = [argument for argument in inspect.signature(method).parameters if argument != "self"]
            assert f"`{name}({', '.join(arguments)})" in docs.read("howto/plugins.md")


def test_every_kind_of_plugin_has_its_choices() -> None:
    assert {*KINDS, "architecture"} == set(kinds)
    for row in builtin():
        assert f"`{row.name}`" in GENERATED["reference/choices.md"]


@pytest.mark.parametrize("name", [row.name for row in builtin() if row.kind in ("selector", "finetuner")])
def test_every_selector_and_finetuner_has_its_method(name: str) -> None:
    assert docs.section("topics/method.md", f"`{name}`")


@pytest.mark.parametrize("name", [row.name for row in builtin() if row.kind == "intervention"])
def test_every_intervention_has_its_method(name: str) -> None:
    assert f"| `{name}` |" in docs.section("topics/method.md", "Interventions")


# Files


def test_every_pydantic_model_has_its_fields_on_a_page() -> None:
    files = {part for where in FORMATS.values() for part in (model(where), *parts_of(model(where)))}
    known = {one.__name__ for one in files} | {where.partition(":")[2] for where in NOT_FILES}
    pairs = [
        pair
        for file in SOURCES
        for pair in re.findall(r"^class ([A-Z]\w+)\((\w+)\):", file.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    # What others extend is on the page with the fields of those.
    defined = {name for name, base in pairs if base in ("BaseModel", "FormatFile")} - {base for _, base in pairs}
    assert len(defined) >= 5
    assert defined - known == set()


@pytest.mark.parametrize("where", NOT_FILES)
def test_every_field_that_users_write(where: str) -> None:
    page = docs.read(NOT_FILES[where])
    for name in model(where).model_fields:
        option = rf"^\* `(-\w, )?--{name.replace('_', '-')}\b"
        row = rf"^\| `{name}` \|"
        assert re.search(OTHERWISE.get(name, f"{option}|{row}"), page, re.MULTILINE), name


def test_every_file_format() -> None:
    found = {name for file in SOURCES for name in re.findall(r'"(lnbench\.\w+/\d+)"', file.read_text(encoding="utf-8"))}
    assert len(found) >= 4
    pages = docs.read("reference/files.md") + docs.read("reference/formats.md")
    assert [name for name in found if name not in pages] == []


# Tasks, text and environment


def _pattern(group: str) -> str:
    """The name of a group, where there are many alike in a pattern."""
    match = re.fullmatch("lnbench_lcb_(?:mono|cross)lingual_(.+)", group)
    return f"lnbench_lcb_{{setting}}_{{{'lang' if len(match[1]) == 2 else 'source'}}}" if match else group


@pytest.mark.parametrize(
    "name",
    [
        *dict.fromkeys(map(_pattern, INDEX.all_groups)),
        *(tag for tag in INDEX.all_tags if tag.startswith("lnbench_")),
    ],
)
def test_every_group_and_tag(name: str) -> None:
    assert f"`{name}`" in docs.read("topics/tasks.md")


def test_every_task_is_a_language_of_its_group() -> None:
    assert sorted(INDEX.all_subtasks) == sorted(f"{group}_{lang}" for group, of in members().items() for lang in of)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric(name: str) -> None:
    assert docs.row("topics/tasks.md", name, "## Metrics")


def test_every_environment_variable() -> None:
    found = {name for file in SOURCES for name in re.findall(r"LNBENCH_[A-Z_]+", file.read_text(encoding="utf-8"))}
    assert "LNBENCH_CACHE" in found
    for name in found:
        assert docs.row("reference/environment.md", name)
    tests = "".join(file.read_text(encoding="utf-8") for file in Path(__file__).parents[1].rglob("*.py"))
    switches = set(re.findall(r'environ\.get\("(LNBENCH_\w+)"', tests))
    assert [name for name in switches if name not in docs.everything()] == []


def test_every_kind_of_corpus_file() -> None:
    endings = {f".{part}" for suffix in READERS for part in suffix[1:].split(".")}
    assert [ending for ending in sorted(endings) if f"`{ending}`" not in docs.read("topics/corpora.md")] == []


def test_every_extra() -> None:
    project = tomllib.loads((docs.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra in project["optional-dependencies"]:
        assert docs.row("howto/install.md", extra)


def test_every_target_of_make() -> None:
    makefile = (docs.ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    said = "\n".join(docs.blocks("howto/install.md", "sh"))
    assert [target for target in phony.split() if f"make {target} " not in said] == []
