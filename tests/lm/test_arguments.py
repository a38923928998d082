"""Every argument that ``lnbench`` adds to lm-eval's ``hf``, good and bad."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from safetensors.torch import save_file

from lnbench.errors import LnbenchError
from lnbench.files import warn_once
from lnbench.lm import LNBenchLM
from lnbench.lm.head import FORMAT, ClassificationHead
from lnbench.neurons import NeuronSet
from lnbench.statistics import Statistics
from tests.support.messages import lacks, refused
from tests.support.tiny import SELECTOR, save_tiny


@pytest.fixture
def artifacts(given: dict[str, Any], tmp_path: Path) -> dict[str, str]:
    """A NeuronSet file and a Statistics folder of the tiny model."""
    lm = LNBenchLM(**given, intervention="mean")
    lm.artifacts.neurons(lm.experiment).save(tmp_path / "neurons.json")
    for language in ("en", "hi", "ur", "vi", "zh"):
        lm.artifacts.statistics(lm.experiment, language).save(tmp_path / "stats")
    return {"neurons": str(tmp_path / "neurons.json"), "statistics": str(tmp_path / "stats")}


def ask(lm: LNBenchLM, task: str = "task_hi", language: str | None = None) -> list[tuple[float, bool]]:
    doc = {"language": language} if language else {}
    pairs = [("The river", " is wide"), ("नदी चौड़ी", " है")]
    return lm.loglikelihood([Instance("loglikelihood", doc, pair, 0, (task, 0, 1)) for pair in pairs])


def info(lm: LNBenchLM) -> dict[str, Any]:
    return dict(json.loads(json.dumps(lm.get_model_info(), default=str))["lnbench"])


def test_model_info_says_what_was_applied(given: dict[str, Any]) -> None:
    lm = LNBenchLM(**given, intervention="p10")
    ask(lm)
    found = info(lm)
    applied = found["applied"]["hi"]
    assert applied["tokens_overridden"] > 0
    assert applied["neurons"] == found["neuron_set"]["neurons"]["hi"] == round(0.15 * 3 * 24)
    assert 1 <= applied["layers"] <= 3
    assert applied["share_outside_observed_range"] == 0
    assert found["statistics_fingerprints"]["hi"]
    assert found["neuron_set"]["selector"]["name"] == "act_prob"
    assert found["intervention_parameters"] == {"name": "p10", "parameters": {}}
    assert found["model"]["weights"]


def test_a_chat_template_over_statistics_of_raw_text_is_warned_of(
    given: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    lm = LNBenchLM(**given, intervention="zero", language="hi")
    lm.tokenizer.chat_template = "{% for m in messages %}<u>{{ m['content'] }}</u>{% endfor %}"
    ask(lm)
    assert "--chat" not in caplog.text
    assert lm.apply_chat_template([{"role": "user", "content": "x"}]) == "<u>x</u>"
    ask(lm)
    assert not lacks(caplog.text, "hi", "lnbench stats --chat")


@pytest.mark.parametrize(("found", "templated"), [(True, True), (True, False), (False, True), (False, False)])
def test_the_format_of_the_neurons_alone_decides(
    found: bool, templated: bool, given: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    warn_once.cache_clear()
    neurons = NeuronSet("tiny", 3, 24, {"hi": {0: [1, 2]}}, chat=found)
    neurons.save(tmp_path / "neurons.json")
    sources = {"pretrained": given["pretrained"], "device": "cpu", "corpus": str(tmp_path / "{lang}.txt")}
    lm = LNBenchLM(**sources, neurons=str(tmp_path / "neurons.json"), intervention="zero", language="hi")
    lm._templated = templated
    ask(lm)
    assert ("in the chat template" in caplog.text) == (found != templated)


def test_files_give_the_same_answers_as_what_they_were_made_from(
    given: dict[str, Any], artifacts: dict[str, str]
) -> None:
    made = LNBenchLM(**given, intervention="mean")
    read = LNBenchLM(given["pretrained"], **artifacts, intervention="mean", batch_size=4)
    assert ask(made) == ask(read)
    assert read.artifacts.neurons(read.experiment) == NeuronSet.load(artifacts["neurons"])


def test_statistics_folder_with_a_selector(given: dict[str, Any], artifacts: dict[str, str]) -> None:
    made = LNBenchLM(**given, intervention="p90")
    read = LNBenchLM(
        given["pretrained"], statistics=artifacts["statistics"], selector=SELECTOR, intervention="p90", batch_size=4
    )
    assert ask(made) == ask(read)


def test_collected_statistics_are_cached(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    first = ask(LNBenchLM(**given, intervention="mean"))
    monkeypatch.setattr("lnbench.statistics.cached.collect_corpus", None)
    assert ask(LNBenchLM(**given, intervention="mean")) == first


def test_the_cache_serves_the_same_weights_under_another_name(given: dict[str, Any], tmp_path: Path) -> None:
    LNBenchLM(**given, intervention="mean", languages="en+hi")
    copy = shutil.copytree(given["pretrained"], tmp_path / "copy")
    lm = LNBenchLM(**given | {"pretrained": str(copy)}, intervention="mean", languages="en+hi+zh")
    assert {lm.artifacts.statistics(lm.experiment, one).model for one in ("en", "hi", "zh")} == {copy.name}
    assert list(lm.artifacts.neurons(lm.experiment).languages) == ["en", "hi", "zh"]


def test_languages_limit_what_the_selector_compares(given: dict[str, Any]) -> None:
    lm = LNBenchLM(**given, intervention="mean", languages="hi+zh")
    assert list(lm.artifacts.neurons(lm.experiment).languages) == ["hi", "zh"]
    with refused("'en'", "hi, zh"):
        ask(lm, language="en")


def test_language_by_name_serves_any_task(given: dict[str, Any]) -> None:
    explicit = ask(LNBenchLM(**given, intervention="mean", language="hi"), task="no_language_here")
    assert explicit == ask(LNBenchLM(**given, intervention="mean"))


def test_a_task_without_language_is_an_error_that_says_what_to_do(given: dict[str, Any]) -> None:
    with refused("arc_easy", "language=…", "metadata"):
        ask(LNBenchLM(**given, intervention="mean"), task="arc_easy")


def test_site_pre_reads_and_writes_before_the_non_linearity(given: dict[str, Any]) -> None:
    pre, post = LNBenchLM(**given, intervention="p10", site="pre"), LNBenchLM(**given, intervention="p10")
    assert ask(pre) != ask(post)
    assert (info(pre)["read_site"], info(pre)["write_site"]) == ("pre", "pre")
    assert info(pre)["applied"]["hi"]["share_outside_observed_range"] == 0


def test_site_paper_writes_values_that_the_site_never_takes_and_warns(
    given: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    lm = LNBenchLM(**given, intervention="p5", site="paper")
    assert "never take" in caplog.text
    ask(lm)
    found = info(lm)
    assert (found["read_site"], found["write_site"]) == ("pre", "post")
    assert found["applied"]["hi"]["share_outside_observed_range"] > 0.5


def test_without_intervention_nothing_is_collected(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lnbench.statistics.cached.collect_corpus", None)
    monkeypatch.setenv("LNBENCH_CACHE", "/nowhere")
    assert ask(LNBenchLM(**given), task="no_language")


def write_head(path: Path, classes: int = 3, hidden: int = 16) -> ClassificationHead:
    torch.manual_seed(1)
    tensors = {"weight": torch.randn(classes, hidden), "bias": torch.randn(classes)}
    save_file(tensors, path, metadata={"format": FORMAT})
    return ClassificationHead.load(path)


def test_head_scores_the_choices(given: dict[str, Any], tmp_path: Path) -> None:
    head = write_head(tmp_path / "head.safetensors")
    lm = LNBenchLM(**given, head=str(tmp_path / "head.safetensors"))
    contexts = ["The river is wide.", "नदी", "A somewhat longer context, to be padded against."]
    asked = [
        Instance("loglikelihood", {}, (context, choice), number, ("task_hi", doc, 1))
        for doc, context in enumerate(contexts)
        for number, choice in enumerate((" yes", " perhaps", " no"))
    ]
    answers = lm.loglikelihood(asked)
    for doc, context in enumerate(contexts):
        with torch.no_grad():
            hidden = lm.model.model(torch.tensor([lm.tok_encode(context)])).last_hidden_state[:, -1]
        expected = (hidden @ head.weight.T + head.bias).log_softmax(-1)[0]
        scores = torch.tensor([answer[0] for answer in answers[3 * doc : 3 * doc + 3]])
        torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)
        assert [answer[1] for answer in answers[3 * doc : 3 * doc + 3]] == [
            number == int(expected.argmax()) for number in range(3)
        ]
    changed = LNBenchLM(**given, head=str(tmp_path / "head.safetensors"), intervention="zero")
    assert changed.loglikelihood(asked) != answers
    assert changed.accounts["hi"].tokens == sum(len(lm.tok_encode(context)) for context in contexts)


def test_bad_heads(given: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    with refused(path):
        LNBenchLM(**given, head=str(path))
    path.write_bytes(b"1234")
    with refused(path):
        LNBenchLM(**given, head=str(path))
    save_file({"weight": torch.ones(3, 16)}, path)
    with refused(path, "lnbench.head/1"):
        LNBenchLM(**given, head=str(path))
    write_head(path, hidden=8, classes=1)
    with refused("8", "16"):
        LNBenchLM(**given, head=str(path)).loglikelihood([Instance("loglikelihood", {}, ("a", " b"), 0, ("t", 0, 1))])
    write_head(path, classes=1)
    lm = LNBenchLM(**given, head=str(path))
    with refused("1 classes"):
        lm.loglikelihood([Instance("loglikelihood", {}, ("a", " b"), 1, ("t", 0, 1))])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"intervention": "p200"}, ["percent=200"]),
        ({"intervention": "zeroes"}, ["zeroes", "zero"]),
        ({"intervention": "constant:number=1"}, ["number"]),
        ({"intervention": "constant:value=much"}, ["value"]),
        ({"selector": "lapse", "intervention": "mean"}, ["lapse", "act_prob", "lape"]),
        ({"selector": "lape:fraction=0.1", "intervention": "mean"}, ["fraction"]),
        ({"selector": "lape:top_fraction=2", "intervention": "mean"}, ["top_fraction"]),
        ({"site": "middle"}, ["site"]),
        ({"positions": "odd"}, ["positions"]),
        ({"intervention": "mean", "languages": "hi+xx"}, ["xx"]),
        ({"intervention": "mean", "languages": "hi+hi"}, ["languages=", "hi+hi"]),
        ({"intervention": "mean", "language": "fr"}, ["fr", "en, hi, ur, vi, zh"]),
        ({"intervention": "mean", "corpus": "/nowhere/{lang}.jsonl"}, ["/nowhere"]),
        ({"intervention": "mean", "statistics": "/nowhere"}, ["/nowhere"]),
        ({"neurons": "/nowhere.json"}, ["/nowhere.json"]),
        ({"intervention": "mean", "tp_plan": "auto"}, ["tensor parallelism"]),
        ({"pretrained": "no/such/model"}, ["no/such/model"]),
    ],
)
def test_bad_arguments_are_said_to_be_so(given: dict[str, Any], changes: dict[str, Any], named: list[str]) -> None:
    with refused(*named, error=(LnbenchError, OSError)):
        LNBenchLM(**(given | changes))


def test_a_language_without_neurons(given: dict[str, Any], tmp_path: Path) -> None:
    found = NeuronSet(model="tiny-llama", layers=3, width=24, neurons={"en": {0: [1]}, "hi": {}})
    found.save(tmp_path / "neurons.json")
    lm = LNBenchLM(**given, neurons=str(tmp_path / "neurons.json"), intervention="zero")
    ask(lm, language="en")
    with refused("'hi'", "intervention=none"):
        ask(lm)
    with refused("'hi'", "intervention=none"):
        LNBenchLM(**given, neurons=str(tmp_path / "neurons.json"), intervention="zero", language="hi")


def test_artifacts_of_another_model(given: dict[str, Any], artifacts: dict[str, str], tmp_path: Path) -> None:
    other = save_tiny(tmp_path / "wider", intermediate_size=32)
    with refused("tiny-llama", "wider", "24", "32"):
        LNBenchLM(other, neurons=artifacts["neurons"], intervention="zero", corpus=given["corpus"])
    with refused(artifacts["statistics"], "wider", "24", "32"):
        LNBenchLM(other, statistics=artifacts["statistics"], intervention="zero")


def test_damaged_artifacts(given: dict[str, Any], artifacts: dict[str, str]) -> None:
    tensors = Path(artifacts["statistics"]) / "hi.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:1000])
    with refused(tensors, "truncated"):
        ask(LNBenchLM(given["pretrained"], **artifacts, intervention="mean"))
    neurons = Path(artifacts["neurons"])
    neurons.write_text(neurons.read_text()[:-20])
    with refused(neurons, "JSON"):
        LNBenchLM(given["pretrained"], neurons=artifacts["neurons"])


def test_empty_text(given: dict[str, Any], tmp_path: Path) -> None:
    for language in ("hi", "en"):
        (tmp_path / f"{language}.txt").write_text("\n \n")
    with refused("{lang}.txt"):
        LNBenchLM(**(given | {"corpus": str(tmp_path / "{lang}.txt")}), intervention="mean")


def test_a_model_object(given: dict[str, Any]) -> None:
    by_name = LNBenchLM(**given, intervention="zero")
    rest = {key: value for key, value in given.items() if key != "pretrained"}
    by_object = LNBenchLM(by_name.model, tokenizer=by_name.tokenizer, **rest, intervention="zero")
    assert ask(by_object) == ask(by_name)
    with refused("peft"):
        LNBenchLM(by_name.model, tokenizer=by_name.tokenizer, peft="adapter", **rest)


def test_peft_adapter(given: dict[str, Any], tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = LNBenchLM(**given)
    adapted = get_peft_model(base.model, LoraConfig(target_modules=["q_proj", "gate_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.unload()
    lm = LNBenchLM(**given, peft=str(tmp_path / "adapter"), intervention="mean")
    assert ask(lm) != ask(LNBenchLM(**given, intervention="mean"))
    assert lm.accounts["hi"].tokens > 0


def test_statistics_read_at_both_sites(artifacts: dict[str, str]) -> None:
    found = Statistics.load(artifacts["statistics"], "hi")
    assert set(found.sites) == {"pre", "post"}
