"""What a plugin returns is checked where it is called, and what it is handed is no part of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from pydantic.dataclasses import dataclass

import lnbench
from lnbench import LayerOverride, LnbenchError, NeuronSet, Override
from lnbench.choices import override, plan, select
from lnbench.finetuning.job import FinetuneJob
from lnbench.host import get_host
from lnbench.statistics import collect_statistics
from lnbench.sweeps.jobs import Job, executor_of
from lnbench.testing import tiny_model, tiny_statistics
from tests.support.messages import refused

MODEL = tiny_model()
STATISTICS = tiny_statistics(MODEL)
NEURONS = {0: torch.tensor([1, 2]), 2: torch.tensor([5])}


@contextmanager
def registered(kind: str, name: str, made: Any) -> Iterator[None]:
    class Plugin:
        pass

    def register_all(register: Callable[[str, Any], None]) -> None:
        register(name, lambda: made)

    register_all.__name__ = f"lnbench_register_{kind}s"
    setattr(Plugin, register_all.__name__, staticmethod(lnbench.hookimpl(register_all)))
    get_host().register(Plugin)
    try:
        yield
    finally:
        get_host().unregister(Plugin)


class Does:
    """A plugin of any kind, whose one method is ``function``."""

    changes_nothing = False

    def __init__(self, function: Callable[..., Any]) -> None:
        self.select = self.override = self.train = self.observe = self.run = lambda *given: function(*given)

    def override(self, context: Any) -> Any: ...


def intervention(function: Callable[[Any], Any]) -> Any:
    class Intervention:
        def override(self, context: Any) -> Any:
            return function(context)

    return Intervention()


# What is handed out

CHANGES: dict[str, Callable[[Any], Any]] = {
    "a mean in place": lambda statistics: statistics.mean.zero_(),
    "one entry": lambda statistics: statistics.max.__setitem__((0, 0), 9.0),
    "through numpy": lambda statistics: statistics.std.numpy().fill(1),
    "the quantiles": lambda statistics: statistics.values.quantiles.add_(1),
    "another site": lambda statistics: statistics.at("pre").positive_rate.mul_(0.5),
    "the sites": lambda statistics: statistics.sites.pop("pre"),
    "provenance": lambda statistics: statistics.provenance.update(model="another"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_selector_that_changes_statistics(change: Callable[[Any], Any]) -> None:
    before = {language: own.fingerprint for language, own in tiny_statistics(MODEL).items()}
    values = {language: own.mean.clone() for language, own in STATISTICS.items()}

    def changing(statistics: Mapping[str, Any]) -> NeuronSet:
        change(statistics["hi"])
        return NeuronSet("any", 3, 24, {"hi": {0: [1]}})

    with registered("selector", "greedy", Does(changing)), refused("'greedy'", "'hi'", ".clone()"):
        select("greedy", STATISTICS)
    assert {language: own.fingerprint for language, own in STATISTICS.items()} == before
    assert all(torch.equal(own.mean, values[language]) for language, own in STATISTICS.items())


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_an_intervention_that_changes_statistics(change: Callable[[Any], Any]) -> None:
    whole = STATISTICS["en"].values.tensors() | {"quantiles": STATISTICS["en"].quantile(0.3)}
    before = {name: tensor.clone() for name, tensor in whole.items()}

    def changing(context: Any) -> Override:
        change(context.statistics_of("en"))
        return Override()

    with registered("intervention", "greedy", intervention(changing)), refused("'greedy'", "'en'"):
        plan(NEURONS, "greedy", STATISTICS["hi"], statistics_of=STATISTICS.__getitem__)
    after = STATISTICS["en"].values.tensors() | {"quantiles": STATISTICS["en"].quantile(0.3)}
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_intervention_that_changes_its_neurons() -> None:
    with (
        registered("intervention", "greedy", intervention(lambda context: context.neurons[0].add_(1))),
        refused("'greedy'", "Tensor", "lnbench.Override"),
    ):
        plan(NEURONS, "greedy")
    with (
        registered("intervention", "greedy", intervention(lambda context: context.neurons[0].add_(1) and Override())),
        pytest.raises(LnbenchError, match="greedy"),
    ):
        plan(NEURONS, "greedy")
    assert NEURONS[0].tolist() == [1, 2]


def test_a_plugin_may_compute_with_copies() -> None:
    def honest(statistics: Mapping[str, Any]) -> NeuronSet:
        own = statistics["hi"].mean.clone()
        own.zero_()
        assert statistics["hi"].values.digest and statistics["hi"].pooled_quantile(0.9).isfinite().all()
        return NeuronSet("any", 3, 24, {"hi": {0: [1]}})

    with registered("selector", "honest", Does(honest)):
        assert select("honest", STATISTICS).count("hi") == 1


@dataclass
class Meddling:
    """A measure that writes to what it observes."""

    reductions: ClassVar = {"seen": "sum"}

    def start(self, sites: Any) -> None:
        self.seen = torch.zeros(1)

    def observe(self, step: Any) -> None:
        self.seen += step.values.sum()
        step.values.zero_()
        step.counted.zero_()

    def finish(self) -> dict[str, torch.Tensor]:
        return {"seen": self.seen}


def test_a_measure_cannot_change_the_forward_pass() -> None:
    blocks = [torch.arange(3, 67).view(2, 32)]
    plain = collect_statistics(MODEL, blocks, language="hi")
    with registered("measure", "meddling", Meddling()):
        meddled = collect_statistics(MODEL, blocks, language="hi", measures=("meddling",))
    assert torch.equal(plain.mean, meddled.mean)
    assert plain.tokens == meddled.tokens


# What is returned


def part(indices: Any = (1, 2), values: Any = (0.0, 0.0), **more: Any) -> LayerOverride:
    def tensor(given: Any) -> Any:
        return torch.tensor(given) if isinstance(given, tuple) else given

    return LayerOverride(tensor(indices), tensor(values), **more)


RETURNED: dict[str, tuple[Callable[[], Any], str]] = {
    "nothing": (lambda: None, "NoneType"),
    "the class": (lambda: Override, "type"),
    "a dictionary": (lambda: {0: part()}, "dict"),
    "a layer as text": (lambda: Override({"0": part()}), "str"),
    "a layer as number with a fraction": (lambda: Override({1.0: part()}), "float"),
    "a layer as tensor": (lambda: Override({torch.tensor(1): part()}), "Tensor"),
    "a layer as bool": (lambda: Override({True: part()}), "bool"),
    "no such layer": (lambda: Override({3: part()}), "3"),
    "a layer below 0": (lambda: Override({-1: part()}), "-1"),
    "a tensor as part": (lambda: Override({0: torch.zeros(2)}), "Tensor"),
    "a list of tensors": (lambda: Override({0: [torch.zeros(2)]}), "Tensor"),
    "no mapping": (lambda: Override([part()]), "list"),
    "indices as list": (lambda: Override({0: LayerOverride([1, 2], torch.zeros(2))}), "list"),
    "values as list": (lambda: Override({0: LayerOverride(torch.tensor([1]), [0.0])}), "list"),
    "indices with fractions": (lambda: Override({0: part((1.0, 2.0))}), "float32"),
    "complex indices": (lambda: Override({0: part((1j, 2j))}), "complex64"),
    "an index too large": (lambda: Override({0: part((1, 24))}), "24"),
    "an index below 0": (lambda: Override({0: part((-1, 1))}), "non-negative"),
    "an index twice": (lambda: Override({0: part((1, 1))}), "repeats"),
    "values of another shape": (lambda: Override({0: part(values=(0.0,))}), "(1,)"),
    "values in a matrix": (lambda: Override({0: part(values=((0.0, 0.0),))}), "(1, 2)"),
    "NaN": (lambda: Override({0: part(values=(0.0, float("nan")))}), "finite"),
    "infinite": (lambda: Override({0: part(values=(0.0, float("inf")))}), "finite"),
    "complex": (lambda: Override({0: part(values=(0j, 1j))}), "finite"),
    "truths": (lambda: Override({0: part(values=(True, False))}), "finite"),
    "an unknown operation": (lambda: Override({0: part(operation="multiply")}), "multiply"),
    "an operation that is no name": (lambda: Override({0: part(operation=3)}), "3"),
    "an unknown site": (lambda: Override({0: part(site="nowhere")}), "nowhere"),
    "a site that is no name": (lambda: Override({0: part(site=0)}), "int"),
    "an overlap": (lambda: Override({0: [part(), part()]}), "layer 0"),
}


@pytest.mark.parametrize(("made", "value"), RETURNED.values(), ids=RETURNED)
def test_what_an_intervention_returns(made: Callable[[], Any], value: str) -> None:
    with (
        registered("intervention", "strange", intervention(lambda _: made())),
        refused("'strange'", value),
        override(MODEL, NEURONS, "strange", statistics=STATISTICS["hi"]),
    ):
        pass


FUNCTIONS: dict[str, Callable[[torch.Tensor], Any]] = {
    "another shape": lambda old: old[..., :1],
    "no tensor": lambda old: 0.0,
    "nothing": lambda old: None,
    "NaN": lambda old: old / 0 * 0,
    "infinite": lambda old: old.abs() / 0,
    "an exception": lambda old: old @ old,
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_what_an_interventions_function_returns(function: Callable[[torch.Tensor], Any]) -> None:
    change = Override({0: LayerOverride(torch.tensor([1, 2]), operation=function)})
    with (
        registered("intervention", "strange", intervention(lambda _: change)),
        refused("'strange'"),
        override(MODEL, NEURONS, "strange"),
        torch.no_grad(),
    ):
        MODEL(torch.arange(3, 35).view(2, 16))


def test_a_function_that_writes_to_its_argument_writes_what_it_returns() -> None:
    ids = torch.arange(3, 35).view(2, 16)
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    logits = []
    for function in (lambda old: old.mul_(2), lambda old: old * 2):
        change = Override({0: LayerOverride(torch.tensor([1, 2]), operation=function)})
        with override(MODEL, change), torch.no_grad():
            logits.append(MODEL(ids, attention_mask=mask).logits)
    assert torch.equal(*logits)


@pytest.mark.parametrize(
    ("operation", "value"), [("set", 7e4), ("scale", 1e5), ("add", -1e9), ("set", 6e4), ("scale", 6.5e4)]
)
def test_an_override_that_overflows_float16(operation: str, value: float) -> None:
    model = tiny_model().half()
    change = intervention(
        lambda context: Override(
            {
                layer: LayerOverride(indices, torch.full(indices.shape, value), operation)
                for layer, indices in context.neurons.items()
            }
        )
    )
    every = {layer: torch.arange(24) for layer in range(3)}
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        with (
            registered("intervention", "huge", change),
            refused("'huge'", "torch.float16"),
            override(model.to(device), every, "huge"),
            torch.no_grad(),
        ):
            model(torch.arange(3, 35, device=device).view(2, 16))
    with registered("intervention", "huge", change), override(MODEL, every, "huge"), torch.no_grad():
        assert MODEL(torch.arange(3, 35).view(2, 16)).logits.isfinite().all()


SELECTED: dict[str, tuple[Any, str]] = {
    "nothing": (None, "NoneType"),
    "a dictionary": ({"hi": {0: [1]}}, "dict"),
    "fewer layers": (NeuronSet("any", 2, 24, {"hi": {0: [1]}}), "2"),
    "another width": (NeuronSet("any", 3, 25, {"hi": {0: [24]}}), "25"),
    "a language that was not compared": (NeuronSet("any", 3, 24, {"xx": {0: [1]}}), "xx"),
    "an exception": (ZeroDivisionError("by zero"), "ZeroDivisionError"),
    "our own refusal": (LnbenchError("too little text"), "too little text"),
}


@pytest.mark.parametrize(("made", "value"), SELECTED.values(), ids=SELECTED)
def test_what_a_selector_returns(made: Any, value: str) -> None:
    def selected(_: Any) -> Any:
        if isinstance(made, Exception):
            raise made
        return made

    with registered("selector", "strange", Does(selected)), refused("'strange'", value):
        select("strange", STATISTICS)


MEASURED: dict[str, tuple[dict[str, Any], str]] = {
    "no dictionary": ({"finish": [torch.zeros(1)]}, "list"),
    "a number": ({"finish": {"seen": 1.0}}, "float"),
    "NaN": ({"finish": {"seen": torch.tensor([0.0, float("nan")])}}, "NaN"),
    "another name": ({"finish": {"heard": torch.zeros(1)}}, "heard"),
    "an unknown reduction": ({"reductions": {"seen": "mean"}}, "mean"),
    "no reductions": ({"reductions": None}, "NoneType"),
    "a name that is none": ({"reductions": {"a b": "sum"}}, "a b"),
}


@pytest.mark.parametrize(("attributes", "value"), MEASURED.values(), ids=MEASURED)
def test_what_a_measure_returns(attributes: dict[str, Any], value: str) -> None:
    class Strange(Meddling):
        reductions = attributes.get("reductions", {"seen": "sum"})

        def observe(self, step: Any) -> None: ...

        def finish(self) -> Any:
            return attributes.get("finish", {"seen": torch.zeros(1)})

    with registered("measure", "strange", Strange()), refused("'strange'", value):
        collect_statistics(MODEL, [torch.arange(3, 35).view(1, 32)], language="hi", measures=("strange",))


def test_parts_of_a_measure_of_different_shapes() -> None:
    from lnbench.model.locate import locate
    from lnbench.statistics.measures import Measures

    class Growing(Meddling):
        sizes: ClassVar = iter(range(1, 9))

        def start(self, sites: Any) -> None:
            self.seen = torch.zeros(next(self.sizes))

    with registered("measure", "growing", Growing()), refused("'growing'", "seen", "(1,)", "(2,)"):
        measures = Measures()
        measures.start(["growing"], locate(MODEL))
        measures.tensors()
        measures.tensors()


def jobs(count: int = 2) -> list[Job]:
    return [Job("count", number, Path("runs")) for number in range(count)]


EXECUTED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a job is missing": (lambda given: [(given[0], None)], "1 of 2"),
    "a job twice": (lambda given: [(given[0], None), (given[0], None)], "tuple"),
    "a job of its own": (lambda given: [(jobs(9)[8], None)], "tuple"),
    "no result": (lambda given: given, "Job"),
    "nothing to go through": (lambda given: 3, "TypeError"),
    "a result of another kind": (lambda given: [(given[2], {"acc": 1})], "dict"),
}


@pytest.mark.parametrize(("run", "value"), EXECUTED.values(), ids=EXECUTED)
def test_what_an_executor_yields(run: Callable[[Any], Any], value: str) -> None:
    class Strange:
        workers = 1

        def run(self, given: Any) -> Any:
            return run(given)

    given = jobs() if value != "dict" else [*jobs(), Job("run", 2, Path("runs"))]
    with registered("executor", "strange", Strange()), refused("'strange'", value), executor_of("strange") as executor:
        list(executor.run(given))


@pytest.mark.parametrize("workers", [0, -1, None, "2", 1.5, True])
def test_the_workers_of_an_executor(workers: Any) -> None:
    class Strange:
        def run(self, given: Any) -> Any: ...

    strange = Strange()
    strange.workers = workers  # type: ignore[attr-defined]
    with (
        registered("executor", "strange", strange),
        refused("'strange'", repr(workers).strip("'")),
        executor_of("strange"),
    ):
        pass


@pytest.mark.parametrize("row", [None, "model.layers", {"blocks": "model.layers"}])
def test_an_architecture_that_is_none(row: Any) -> None:
    class Plugin:
        @staticmethod
        @lnbench.hookimpl
        def lnbench_register_architectures(register: Any) -> None:
            register("strange", row)

    model = tiny_model()
    model.config.model_type = "strange"
    get_host().register(Plugin)
    try:
        with refused("'strange'", "Architecture"), override(model, NEURONS, "zero"):
            pass
    finally:
        get_host().unregister(Plugin)


TRAINED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "nothing": (lambda out: None, "NoneType"),
    "the model": (lambda out: MODEL, "LlamaForCausalLM"),
    "a folder that does not exist": (lambda out: out / "adapter", "not exist"),
    "an empty folder": (lambda out: _made(out / "adapter"), "no file"),
    "a folder of empty files": (lambda out: _touched(_made(out / "adapter") / "adapter_model.safetensors"), "no file"),
    "a file": (lambda out: _touched(out / "adapter"), "file"),
    "its own folder, with nothing in it": (lambda out: out, "no file"),
    "a folder elsewhere": (lambda out: out.parent, "not in"),
}


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _touched(file: Path) -> Path:
    file.touch()
    return file.parent if file.suffix else file


@pytest.mark.parametrize(("train", "value"), TRAINED.values(), ids=TRAINED)
def test_what_a_fine_tuner_returns(
    train: Callable[[Path], Any], value: str, tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lnbench.finetuning.data.prepare", lambda *_, **__: type("Data", (), {"account": {}}))
    monkeypatch.setattr("lnbench.finetuning.training.work_of", lambda _data: None)
    monkeypatch.setattr("lnbench.estimates.announce", lambda *_: None)
    out = tmp_path / "out"
    with registered("finetuner", "strange", Does(lambda *given: train(given[-1]))), refused("'strange'", value):
        FinetuneJob(finetuner="strange", model=tiny_model, out=out).run()
    from lnbench.finetuning.training_record import read

    record = read(out)
    assert record is not None and not record["finished"]
