"""Plugins: how they are found, what a choice resolves to, and what an error says."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import pydantic
import pytest
from pydantic import Field
from pydantic.dataclasses import dataclass as pydantic_dataclass

from lnbench import LnbenchError
from lnbench.errors import PluginError, plugin_errors
from lnbench.hookspecs import hookimpl
from lnbench.host import DISABLE, Host, changes_nothing, get_host, kinds, reads_statistics
from lnbench.parameters import format_choice, parse_choice
from tests.support.messages import refused


@pydantic_dataclass
class Lowest:
    """Lowest first.

    A second paragraph.
    """

    top: Annotated[float, Field(gt=0, le=1)] = 0.01
    scope: Literal["neuron", "layer"] = "layer"
    strict: bool = False
    languages: list[str] | None = None
    where: Path = Path()
    only: list[int] = Field(default_factory=list)

    def select(self, statistics: Any) -> str:
        return f"lowest {self.top}"


@pydantic_dataclass
class Quantile:
    """A quantile."""

    percent: float = Field(ge=0, le=100)
    scale: float = 1.0

    def override(self, context: Any) -> None: ...


class Model(pydantic.BaseModel):
    steps: int = 3

    def train(self, *_: Any) -> None: ...


@dataclass
class Plain:
    size: int = 1
    names: tuple[str, ...] = field(default_factory=lambda: ("a",))

    def select(self, statistics: Any) -> None: ...


class Bare:
    """Bare."""

    def __init__(self, rate: float, label: str = "x", **_: Any) -> None:
        self.pair = (rate, label)

    def select(self, statistics: Any) -> None: ...


def bare(count: int = 2) -> Bare:
    return Bare(rate=count)


class Failing:
    def __init__(self) -> None:
        raise RuntimeError("no luck")


class Shapeless:
    pass


class Queue:
    """A queue."""

    workers = 1

    def run(self, jobs: Any) -> Any:
        return ((job, job.run(None)) for job in jobs)


ROW = SimpleNamespace(blocks="model.layers")


class Example:
    @hookimpl
    def lnbench_register_selectors(self, register: Callable[[str, Any], None]) -> None:
        register("lowest", Lowest)
        register("plain", Plain)
        register("bare", Bare)
        register("function", bare)
        register("failing", Failing)
        register("shapeless", Shapeless)

    @hookimpl
    def lnbench_register_interventions(self, register: Callable[[str, Any], None]) -> None:
        register("quantile", Quantile)
        register("p{percent}", Quantile)
        register("last", functools.partial(Quantile, 100))

    @hookimpl
    def lnbench_register_finetuners(self, register: Callable[[str, Any], None]) -> None:
        register("model", Model)

    @hookimpl
    def lnbench_register_executors(self, register: Callable[[str, Any], None]) -> None:
        register("queue", Queue)

    @hookimpl
    def lnbench_register_architectures(self, register: Callable[[str, Any], None]) -> None:
        register("tiny_llama", ROW)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.setenv(DISABLE, "1")
    made = Host(builtins=())
    made.register(Example(), name="example")
    return made


def plugin(**hooks: Callable[[Callable[..., None]], None]) -> type:
    """A plugin with the given hooks, as anyone's module would have them."""
    return type("Throwaway", (), {name: staticmethod(hookimpl(function)) for name, function in hooks.items()})


def selectors(*names: str) -> type:
    def add(register: Callable[..., None]) -> None:
        for name in names:
            register(name, Lowest)

    return plugin(lnbench_register_selectors=add)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lowest", {}),
        ("lowest:top=0.02", {"top": 0.02}),
        ("lowest:top=2e-2:strict=true", {"top": 0.02, "strict": True}),
        ("lowest:scope=neuron", {"scope": "neuron"}),
        ("lowest:languages=aa+bb", {"languages": ["aa", "bb"]}),
        ("lowest:languages=aa", {"languages": ["aa"]}),
        ("lowest:languages=", {"languages": []}),
        ("lowest:languages=none", {"languages": None}),
        ("lowest:only=1+20:top=1", {"only": [1, 20], "top": 1.0}),
        ("lowest:where=C:/x:y/z:strict=yes", {"where": "C:/x:y/z", "strict": True}),
        ("lowest:where=http://h/?a=b", {"where": "http:/h/?a=b"}),
    ],
)
def test_a_choice_in_text(host: Host, text: str, expected: dict[str, object]) -> None:
    defaults = {"top": 0.01, "scope": "layer", "strict": False, "languages": None, "where": ".", "only": []}
    assert host.canonical("selector", text) == {"name": "lowest", "parameters": defaults | expected}
    built = host.resolve("selector", text)
    assert isinstance(built, Lowest)
    assert json.loads(json.dumps(host.canonical("selector", built))) == host.canonical("selector", text)


@pytest.mark.parametrize(
    ("kind", "choice", "name", "parameters"),
    [
        ("selector", "plain:size=3:names=x+y", "plain", {"size": 3, "names": ["x", "y"]}),
        ("selector", "plain", "plain", {"size": 1, "names": ["a"]}),
        ("selector", "bare:rate=2", "bare", {"rate": 2.0, "label": "x"}),
        ("selector", "function:count=4", "function", {"count": 4}),
        ("selector", {"name": "lowest", "parameters": {"top": 0.5}}, "lowest", None),
        ("intervention", "p10:scale=2", "p10", {"scale": 2.0}),
        ("intervention", "last", "last", {"scale": 1.0}),
        ("intervention", {"name": "p7"}, "p7", {"scale": 1.0}),
        ("intervention", Quantile(percent=7, scale=2), "p7", {"scale": 2.0}),
        ("intervention", "p2.5", "p2.5", {"scale": 1.0}),
        ("intervention", "p10.0", "p10", {"scale": 1.0}),
        ("intervention", "p0", "p0", {"scale": 1.0}),
        ("intervention", Quantile(percent=12.5), "p12.5", {"scale": 1.0}),
        ("intervention", Quantile(percent=100), "p100", {"scale": 1.0}),
        ("finetuner", "model:steps=9", "model", {"steps": 9}),
        ("architecture", "tiny_llama", "tiny_llama", {}),
    ],
)
def test_canonical(host: Host, kind: str, choice: Any, name: str, parameters: dict[str, Any] | None) -> None:
    canonical = host.canonical(kind, choice)
    assert canonical["name"] == name
    assert parameters is None or canonical["parameters"] == parameters
    assert host.canonical(kind, canonical) == canonical


def test_an_object_is_used_as_it_is(host: Host) -> None:
    class Mine:
        def select(self, statistics: Any) -> None: ...

    mine = Mine()
    assert host.resolve("selector", mine) is mine
    assert host.canonical("selector", mine)["name"].endswith("Mine")
    loose = SimpleNamespace(select=print)
    assert host.canonical("selector", loose) == {"name": "types.SimpleNamespace", "parameters": {}}
    assert host.resolve("architecture", "tiny_llama") is ROW
    assert host.factory("architecture", "tiny_llama") is ROW
    assert host.factory("selector", "lowest") is Lowest


@pytest.mark.parametrize(
    ("kind", "choice", "named"),
    [
        ("selector", "lwest", ["lwest", "lowest, plain", "LNBENCH_DISABLE_PLUGINS"]),
        ("selector", "lowest:0.02", ["name:key=value"]),
        ("selector", "", ["''", "lowest, plain"]),
        ("intervention", "plain", ["plain", "quantile, p{percent}, last"]),
        ("intervention", "p101", ["'p101'", "percent=101.0", "100"]),
        ("intervention", "p-1", ["'p-1'", "percent=-1.0", "0"]),
        ("selector", "lowest:tpo=1", ["'tpo'", "top: float = 0.01, scope: Literal"]),
        ("selector", "lowest:top=many", ["top='many'", "top: float = 0.01"]),
        ("selector", "lowest:top=7", ["top='7'", "1"]),
        ("selector", "lowest:top=0.1:top=0.2", ["'top'", "lowest:top=0.1:top=0.2"]),
        ("selector", "plain:size=x", ["size='x'", "integer"]),
        ("selector", "bare", ["'rate'", "rate: float, label: str = 'x'"]),
        ("selector", "failing:x=1", ["'failing'", "'x'"]),
        ("intervention", "p10:percent=11", ["'p10'", "'percent'"]),
        ("intervention", "quantile", ["'quantile'", "'percent'"]),
        ("architecture", "tiny_llama:x=1", ["tiny_llama", "'x'"]),
        ("selector", {"nam": "lowest"}, ["{'nam': 'lowest'}", "{'name': …, 'parameters': {…}}"]),
        ("intervention", 7, ["7", "intervention", "'override'"]),
        ("selecter", "lowest", ["selecter", "selector, intervention"]),
    ],
)
def test_what_an_error_says(host: Host, kind: str, choice: Any, named: list[str]) -> None:
    with refused(*named) as caught:
        host.resolve(kind, choice)
    assert not isinstance(caught.value, PluginError)


@pytest.mark.parametrize(
    ("name", "named"),
    [("failing", ["'failing'", "RuntimeError: no luck"]), ("shapeless", ["'shapeless'", "'select'"])],
)
def test_a_factory_that_fails(host: Host, name: str, named: list[str]) -> None:
    with refused(*named, error=PluginError):
        host.resolve("selector", name)


def test_errors_inside_a_plugin_name_it() -> None:
    with (
        refused("'mine'", "KeyError: 'x'", error=PluginError) as caught,
        plugin_errors("selector", "mine"),
    ):
        raise KeyError("x")
    assert isinstance(caught.value.__cause__, KeyError)
    with refused("say so") as said, plugin_errors("selector", "mine"):
        raise LnbenchError("say so")
    assert str(said.value) == "say so" and not isinstance(said.value, PluginError)


def test_describe(host: Host) -> None:
    rows = {(row.kind, row.name): row for row in host.describe()}
    assert [row.name for row in host.describe() if row.kind == "intervention"] == ["quantile", "p{percent}", "last"]
    lowest = rows["selector", "lowest"]
    assert (lowest.doc, lowest.source.distribution) == ("Lowest first.", "example")
    assert str(lowest.parameters["top"]) == "top: float = 0.01"
    assert [str(parameter) for parameter in rows["intervention", "p{percent}"].parameters.values()] == [
        "percent: float",
        "scale: float = 1.0",
    ]
    assert rows["selector", "plain"].doc == ""
    assert rows["finetuner", "model"].doc == ""
    assert rows["architecture", "tiny_llama"].parameters == {}
    assert (
        {row.kind for row in host.describe()}
        == {"selector", "intervention", "finetuner", "executor", "architecture"}
        < set(kinds)
    )


def interventions(**factories: Any) -> type:
    def add(register: Callable[..., None]) -> None:
        for name, factory in factories.items():
            register(name, factory)

    return plugin(lnbench_register_interventions=add)


@pytest.mark.parametrize(
    ("name", "named"),
    [("p7", ["'p7'", "example", "Throwaway"]), ("q{rate}", ["Throwaway", "'q{rate}'", "percent: float"])],
)
def test_a_pattern_takes_all_its_names_and_needs_its_parameter(host: Host, name: str, named: list[str]) -> None:
    with refused(*named):
        host.register(interventions(**{name: Quantile}))
    assert host.canonical("intervention", "p7") == {"name": "p7", "parameters": {"scale": 1.0}}


@pytest.mark.parametrize(
    "choice",
    [
        "lowest",
        "lowest:top=0.5:languages=aa+bb",
        "lowest:languages=none:where=[a:b=c]",
        "plain:names=x+y",
        "bare:rate=2.0",
    ],
)
def test_format_is_the_inverse_of_parse(host: Host, choice: str) -> None:
    full = host.canonical("selector", choice)
    assert host.canonical("selector", host.format("selector", choice)) == full
    name, given = parse_choice(format_choice(full["name"], full["parameters"]))
    assert (name, given.keys()) == (full["name"], full["parameters"].keys())
    assert host.format("selector", host.format("selector", choice)) == host.format("selector", choice)


def test_defaults_are_left_out(host: Host) -> None:
    assert host.format("selector", "lowest:scope=layer:top=2e-2:strict=no") == "lowest:top=0.02"
    assert host.format("intervention", Quantile(percent=5, scale=1)) == "p5"
    assert host.format("intervention", "p5.0:scale=2") == "p5:scale=2.0"


def test_built_in_choices_without_their_defaults() -> None:
    host = get_host()
    assert host.format("selector", "lape:top_fraction=0.01") == "lape"
    assert host.format("selector", "act_prob:scope=model:fraction=0.004") == "act_prob:scope=model:fraction=0.004"
    assert host.format("intervention", "constant:value=0") == "constant"
    assert host.format("intervention", "constant:value=1") == "constant:value=1.0"


def test_controls_and_baselines_are_what_the_plugins_say() -> None:
    host = get_host()
    control = host.control_of("lape:top_fraction=0.02", 3)
    assert control == "random:like=[lape:top_fraction=0.02]:seed=3"
    assert host.resolve("selector", control).like == "lape:top_fraction=0.02"
    assert host.control_of("neurons/of.json", 0) == "random:like=neurons/of.json:seed=0"
    assert host.control_of("random:seed=1", 0) is None
    choices = ("none", "mean", "p5", "somebody's", {"name": "none"}, host.resolve("intervention", "none"), object())
    assert [changes_nothing(choice) for choice in choices] == [True, False, False, False, True, True, False]


def test_what_reads_statistics_is_what_the_plugins_say() -> None:
    class SaysNothing:
        def override(self, context: object) -> None: ...

    read = ("mean", "p10", "add", "swap", "all_of:[zero:layers=0]:[mean:layers=1]", SaysNothing())
    unread = ("none", "zero", "constant:value=2", "scale:factor=2", "all_of:[zero:layers=0]:[constant:layers=1]")
    assert all(map(reads_statistics, read))
    assert not any(map(reads_statistics, unread))


def test_commands_of_plugins(host: Host) -> None:
    added: list[str] = []
    host.register(plugin(lnbench_register_commands=lambda app: app.append("mine")), name="with commands")
    ((source, register),) = host.command_hooks()
    register(app=added)
    assert (source.plugin, added) == ("with commands", ["mine"])


def test_a_built_in_is_a_file_and_imports_nothing_heavy() -> None:
    code = "import sys, lnbench.host; lnbench.host.get_host(); print({'torch', 'transformers'} & set(sys.modules))"
    environment = {**os.environ, DISABLE: "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "set()", done.stderr


def test_register_and_unregister(host: Host) -> None:
    more = selectors("more")
    host.register(more)
    try:
        assert "more" in host.names("selector")
        with refused("'Throwaway'"):
            host.register(more)
    finally:
        host.unregister(more)
    assert "more" not in host.names("selector")
    assert "lowest" in host.names("selector")
    host.register(more)
    assert "more" in host.names("selector")


def typo(register: Any) -> None: ...


def unmarked(register: Any) -> None: ...


def raising(register: Any) -> None:
    register("half", Lowest)
    raise RuntimeError("half way")


@pytest.mark.parametrize(
    ("bad", "error", "named"),
    [
        (
            selectors("mine", "lowest"),
            LnbenchError,
            ["'lowest'", "example and Throwaway"],
        ),
        (selectors("mine", "mine"), LnbenchError, ["'mine'", "Throwaway and Throwaway"]),
        (selectors("a:b"), LnbenchError, ["Throwaway", "'a:b'"]),
        (
            plugin(lnbench_register_selectors=lambda register: register("mine", 3)),
            LnbenchError,
            ["'mine'", "3", "callable"],
        ),
        (plugin(lnbench_register_selectors=raising), PluginError, ["Throwaway", "RuntimeError: half way"]),
        (
            plugin(lnbench_register_selector=typo),
            LnbenchError,
            ["'lnbench_register_selector'", "lnbench_register_selectors, lnbench_register_interventions"],
        ),
        (plugin(lnbench_register_selectors=lambda add: None), LnbenchError, ["add", "lnbench_register_selectors"]),
        (
            type("Unmarked", (), {"lnbench_register_selectors": unmarked}),
            LnbenchError,
            ["Unmarked", "@lnbench.hookimpl"],
        ),
    ],
)
def test_a_plugin_that_does_not_fit_leaves_nothing(host: Host, bad: Any, error: type, named: list[str]) -> None:
    before = host.describe()
    with refused(*named, error=error):
        host.register(bad)
    assert host.describe() == before
    host.register(selectors("mine", "half"))
    assert isinstance(host.resolve("selector", "mine"), Lowest)


def install(folder: Path, name: str, code: str) -> None:
    """What pip leaves of a plugin's distribution: a module and its metadata."""
    (folder / f"{name}.py").write_text(code, encoding="utf-8")
    metadata = folder / f"{name}_dist-1.5.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: 1.5\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text(f"[lnbench]\n{name} = {name}\n", encoding="utf-8")


GOOD = """
from lnbench import hookimpl

class Nothing:
    def select(self, statistics): ...

@hookimpl
def lnbench_register_selectors(register):
    register("{name}", Nothing)
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the import path, with third parties switched on; what was imported from it is forgotten."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv(DISABLE, raising=False)
    yield tmp_path
    for file in tmp_path.glob("*.py"):
        sys.modules.pop(file.stem, None)


def test_third_parties_are_found(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "kind_plugin", GOOD.format(name="kind"))
    host = Host(builtins=())
    row = next(row for row in host.describe() if row.name == "kind")
    assert (row.source.distribution, row.source.version) == ("kind_plugin-dist", "1.5")
    host.resolve("selector", "kind")
    monkeypatch.setenv(DISABLE, "0")
    assert "kind" in Host(builtins=()).names("selector")
    monkeypatch.setenv(DISABLE, "1")
    assert Host(builtins=()).names("selector") == []


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("import lnbench_nowhere", ["ModuleNotFoundError: No module named 'lnbench_nowhere'"]),
        (GOOD.format(name="taken"), ["'taken'", "taken_plugin-dist 1.5", "bad_plugin-dist 1.5"]),
        ("", ["bad_plugin", "@lnbench.hookimpl"]),
        (GOOD.replace("register_selectors", "register_nothing"), ["'lnbench_register_nothing'"]),
        (GOOD.replace('register("{name}", Nothing)', "1 / 0"), ["ZeroDivisionError"]),
    ],
)
def test_nothing_is_resolved_beside_a_broken_plugin(site: Path, code: str, named: list[str]) -> None:
    install(site, "taken_plugin", GOOD.format(name="taken"))
    install(site, "bad_plugin", code)
    host = Host(builtins=())
    assert host.names("selector") == ["taken"]
    assert [row.name for row in host.describe() if row.kind == "selector"] == ["taken"]
    assert len(host.broken) == 1
    for choice in ("taken", "nothing"):
        with refused(*named, f"{DISABLE}=1"):
            host.resolve("selector", choice)


def test_the_host_of_this_process_has_the_builtins() -> None:
    assert get_host() is get_host()
    rows = {row.name: row for row in get_host().describe()}
    assert "p{percent}" in rows
    assert {rows[name].source.distribution for name in ("lape", "none", "local")} == {"lnbench"}


def test_the_host_is_light() -> None:
    heavy = {"torch", "transformers", "lm_eval", "pydantic", "numpy"}
    code = f"import sys, lnbench.host; print(sorted({heavy!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_parameter_that_was_added_later_is_recorded_where_it_is_not_at_its_default():
    host = get_host()
    recorded = {"name": "lape", "parameters": {"top_fraction": 0.01, "bar": 0.95}}
    assert host.canonical("selector", "lape") == host.canonical("selector", "lape:balanced=false") == recorded
    assert host.canonical("selector", "lape:balanced=true")["parameters"]["balanced"] is True
    assert host.format("selector", "lape:balanced=true") == "lape:balanced=True"
    assert host.format("selector", "lape:balanced=no") == "lape"
