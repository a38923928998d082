"""The documentation: complete, its links and commands right, its examples working."""

from __future__ import annotations

import inspect
import re
import sys
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import docs_pages as docs
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from samples import normal, statistics_of

import lnbench
from lnbench import hookspecs
from lnbench.architectures import ARCHITECTURES, Architecture, locate
from lnbench.finetuning.job import QUANTIZATIONS
from lnbench.host import get_host
from lnbench.lm import LNBenchLM
from lnbench.lm.experiment import Experiment
from lnbench.paths import tasks_dir

COMMANDS = dict(docs.subcommands(docs.commandline()))
PACKAGE = Path(lnbench.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
BUILTIN = [row for row in get_host().describe() if row.distribution == "lnbench"]
page_name = {"argvalues": docs.PAGES, "ids": [page.name for page in docs.PAGES]}
TASKS = sorted(
    {
        name
        for file in tasks_dir().rglob("*.yaml")
        for name in re.findall(r"^(?:task|group|tag):[ \t]*(\w+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
)


# Everything has its place


@pytest.mark.parametrize("hook", [name for name in vars(hookspecs) if name.startswith("lnbench_register_")])
def test_every_hook(hook: str) -> None:
    assert f"`{hook}(register)`" in docs.read("plugins.md")


@pytest.mark.parametrize("kind", ["Selector", "Intervention", "FineTuner"])
def test_every_contract_with_its_arguments(kind: str) -> None:
    (name, method) = next(
        (name, method) for name, method in vars(getattr(hookspecs, kind)).items() if inspect.isfunction(method)
        and not name.startswith("_")
    )  # fmt: skip
    arguments = [argument for argument in inspect.signature(method).parameters if argument != "self"]
    written = re.search(rf"`{name}\(([^`]*)\) ->", docs.read("plugins.md"))
    assert written
    assert [argument for argument in arguments if argument not in written.group(1)] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option(command: str) -> None:
    said = docs.section("cli.md", f"`{command}`")
    options = [name for parameter in COMMANDS[command].params for name in parameter.opts if name.startswith("--")]
    assert [name for name in options if f"`{name}`" not in said] == []
    examples = [" ".join(words) for words in docs.commands(docs.DOCS / "cli.md", "lnbench")]
    # A word in capitals stands for any other.
    spoken = re.sub(r"[A-Z]{2,}", r"\\S+", command)
    assert [line for line in examples if re.match(f"{spoken} ", f"{line} ")] or command == "lnbench tasks"


def test_every_global_option() -> None:
    options = [name for parameter in docs.commandline().params for name in parameter.opts]
    assert [name for name in options if name not in docs.read("cli.md")] == []


@pytest.mark.parametrize("argument", ["pretrained", *Experiment.model_fields])
def test_every_model_argument_with_its_default(argument: str) -> None:
    default, meaning = docs.row("arguments.md", argument)
    own = Experiment.model_fields.get(argument)
    actual = own.default if own else inspect.signature(LNBenchLM).parameters[argument].default
    spoken = {"corpus": "the embedded text", "languages": "those of the Statistics folder or corpus"}
    assert default == spoken.get(argument, "–" if actual is None else f"`{actual}`")
    assert meaning


def test_the_readme_counts_the_arguments() -> None:
    words = {11: "eleven", 12: "twelve", 13: "thirteen", 14: "fourteen", 15: "fifteen", 16: "sixteen"}
    assert f"{words[len(Experiment.model_fields)]} more](docs/arguments.md)" in docs.read(docs.README).replace(
        "\n", " "
    )


@pytest.mark.parametrize("choice", [row for row in BUILTIN if row.kind != "architecture"], ids=lambda row: row.name)
def test_every_selector_intervention_and_finetuner_with_its_parameters(choice: Any) -> None:
    if choice.kind == "intervention":
        names = " … ".join(f"`{name}`" for name in choice.name.split(" … "))
        assert f"| {names} |" in docs.section("method.md", "Interventions")
        assert [one.name for one in choice.parameters if f"`{one.name}`" not in docs.read("method.md")] == []
        return
    heading = f"### `{choice.name}`"
    for parameter in choice.parameters:
        default, meaning = docs.row("method.md", parameter.name, heading)
        assert default.strip("`") == ("–" if parameter.required else as_typed(parameter.default))
        assert meaning


def as_typed(value: Any) -> str:
    """A parameter's value as users write it."""
    return "none" if value is None else "+".join(value) if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_every_architecture(model_type: str) -> None:
    one = ARCHITECTURES[model_type]
    blocks, activation, kind = docs.row("architectures.md", model_type)
    assert (blocks, activation) == (f"`{one.blocks}`", f"`{one.activation}`")
    assert kind == ("gated, gate and up in one matrix" if one.fused else "gated" if one.up else "plain")


def test_every_field_of_an_architecture() -> None:
    for field in inspect.signature(Architecture).parameters:
        assert docs.row("plugins.md", field, "## An architecture")


@pytest.mark.parametrize("name", TASKS)
def test_every_task_group_and_tag(name: str) -> None:
    assert f"`{name}`" in docs.read("tasks.md")


def test_every_metric() -> None:
    found = {
        name
        for file in tasks_dir().rglob("*.yaml")
        for name in re.findall(r"metric: (\w+)", file.read_text(encoding="utf-8"))
    }
    assert found
    for name in found:
        assert docs.row("tasks.md", name, "## Metrics")


def test_every_environment_variable() -> None:
    found = {name for file in SOURCES for name in re.findall(r"LNBENCH_[A-Z_]+", file.read_text(encoding="utf-8"))}
    assert "LNBENCH_CACHE" in found
    for name in found:
        assert docs.row("cli.md", name, "## Environment variables")
    tests = "".join(file.read_text(encoding="utf-8") for file in Path(__file__).parent.rglob("*.py"))
    switches = set(re.findall(r'environ\.get\("(LNBENCH_\w+)"', tests))
    assert [name for name in switches if name not in docs.everything()] == []


def test_every_file_format() -> None:
    found = {name for file in SOURCES for name in re.findall(r'"(lnbench\.\w+/\d+)"', file.read_text(encoding="utf-8"))}
    assert len(found) >= 4
    assert [name for name in found if name not in docs.read("files.md")] == []


def test_every_kind_of_corpus_file() -> None:
    from lnbench.corpora.readers import READERS

    assert [suffix for suffix in READERS if f"`{suffix}`" not in docs.read("corpora.md")] == []


def test_every_page_is_reached_from_the_readme_and_the_index() -> None:
    for page in docs.PAGES[1:]:
        if page.name != "index.md":
            assert f"(docs/{page.name})" in docs.read(docs.README)
            assert f"({page.name})" in docs.read("index.md")


# Nothing points nowhere


@pytest.mark.parametrize("page", **page_name)
def test_links_resolve(page: Path) -> None:
    for link in docs.links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in docs.anchors(target), link


@pytest.mark.parametrize("page", **page_name)
def test_commands_parse(page: Path) -> None:
    for words in docs.commands(page, "lnbench"):
        if "--help" not in words and "--version" not in words:
            docs.commandline().main(words[1:], prog_name="lnbench", standalone_mode=False)


@pytest.mark.parametrize("page", **page_name)
def test_evaluations_name_tasks_and_arguments_that_exist(page: Path) -> None:
    known = {*Experiment.model_fields, *inspect.signature(HFLM).parameters, *QUANTIZATIONS["nf4"]}
    for words in docs.commands(page, "lm_eval", "lnbench"):
        given = dict(pairwise(words))
        if "--tasks" not in given:
            continue
        assert words[0] == "lnbench" or given["--include_path"] == "$(lnbench tasks)"
        assert [task for task in given["--tasks"].split(",") if task not in TASKS] == []
        text = given.get("--model_args", "")
        if not text.startswith("{"):
            pairs = dict(part.split("=", 1) for part in text.split(",") if part)
            assert set(pairs) <= known
            assert words[0] == "lnbench" or "{" not in text
            ours = {name: value for name, value in pairs.items() if name in Experiment.model_fields}
            if not re.search("most_active|amplify", text):
                Experiment(**ours)


@pytest.mark.parametrize("page", **page_name)
def test_commands_named_in_running_text_exist(page: Path) -> None:
    for code in docs.inline(page):
        if re.fullmatch(r"lnbench( [a-z]+)+", code):
            assert [command for command in COMMANDS if f"{command} ".startswith(f"{code} ")], code


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (docs.ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in docs.PAGES:
        for words in docs.commands(page, "make"):
            assert words[-1] in targets or "=" in words[-1]
            assert targets & set(words)


# Examples work


def loaded(source: str, name: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> ModuleType:
    """A module of the documentation, imported from a file."""
    (folder / f"{name}.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, name, raising=False)
    return import_module(name)


@pytest.fixture
def stats() -> dict[str, Any]:
    return {
        language: statistics_of(normal(200, 3, 24, seed=seed), language=language)
        for seed, language in enumerate(("en", "hi"))
    }


def python(page: str | Path, containing: str) -> str:
    (found,) = [block for block in docs.blocks(page, "python") if containing in block]
    return found


def test_the_readmes_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stats: dict[str, Any], tiny_model: str
) -> None:
    from transformers import AutoModelForCausalLM

    source = python(docs.README, "lnbench_register_interventions")
    assert len([line for line in source.splitlines() if line.strip()]) <= 15
    plugin = loaded(source, "damp", monkeypatch, tmp_path)
    host = get_host()
    host.register(plugin)
    try:
        (choice,) = re.findall(r"`intervention=(damp:[^`]+)`", docs.read(docs.README))
        found = lnbench.select("act_prob:fraction=0.1", stats)
        change = host.resolve("intervention", choice).override(found["hi"], stats["hi"])
        assert change.neurons == 7
        for part in change.layers.values():
            assert part.operation == "scale"
            assert torch.equal(part.values, torch.full(part.indices.shape, 0.2))
        model = AutoModelForCausalLM.from_pretrained(tiny_model)
        with lnbench.override(model, found["hi"], choice, statistics=stats["hi"]) as applied, torch.no_grad():
            model(torch.tensor([[5, 6, 7]]))
        assert (applied.neurons, applied.tokens) == (7, 3)
    finally:
        host.unregister(plugin)


def test_the_two_files_of_the_plugin_page_are_the_tested_package() -> None:
    package = Path(__file__).parent / "plugin_package"
    for language, file in (("toml", "pyproject.toml"), ("python", "lnbench_example_plugin.py")):
        assert (package / file).read_text(encoding="utf-8") in docs.blocks("plugins.md", language)


def test_the_plugin_pages_example_selects_and_overrides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stats: dict[str, Any]
) -> None:
    plugin = loaded(python("plugins.md", "class MostActive"), "documented_plugin", monkeypatch, tmp_path)
    host = get_host()
    host.register(plugin)
    try:
        found = lnbench.select("most_active:fraction=0.05", stats)
        assert {language: found.count(language) for language in found} == {"en": 4, "hi": 4}
        assert host.resolve("intervention", "amplify:factor=3").override(found["hi"], None).neurons == 4
    finally:
        host.unregister(plugin)


def test_the_plugin_pages_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: str) -> None:
    from transformers import AutoModelForCausalLM

    plugin = loaded(python("plugins.md", "Architecture("), "documented_architecture", monkeypatch, tmp_path)
    host = get_host()
    host.register(plugin)
    try:
        model = AutoModelForCausalLM.from_pretrained(tiny_model)
        model.config.model_type = "my_model_type"
        assert (locate(model).layers, locate(model).width) == (3, 24)
    finally:
        host.unregister(plugin)


def test_the_readmes_python(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lnbench.models.resolve", lambda name: tiny_model)
    source = python(docs.README, "collect_statistics")
    # One neuron in a hundred of so tiny a model is none for most languages.
    exec(source.replace("top_fraction=0.01", "top_fraction=1").replace("tokens=5000", "tokens=1500"), {})
    neurons, tokens, outside = capsys.readouterr().out.split()
    assert int(neurons) > 0
    assert int(tokens) > 0
    assert float(outside) == 0


@pytest.mark.parametrize("page", **page_name)
def test_python_names_only_what_lnbench_has(page: Path) -> None:
    for source in docs.blocks(page, "python"):
        compile(source, page.name, "exec")
        for name in re.findall(r"(?<![\w.])lnbench\.(\w+)", source):
            assert hasattr(lnbench, name) or (PACKAGE / name).exists() or (PACKAGE / f"{name}.py").exists(), name


def test_the_json_examples_load(tmp_path: Path) -> None:
    (source,) = docs.blocks("files.md", "json")
    file = tmp_path / "neurons.json"
    file.write_text(source, encoding="utf-8")
    assert lnbench.NeuronSet.load(file).count("hi") == 3
