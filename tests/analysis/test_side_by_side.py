"""Continuations side by side: what each column holds, against plain generation under each override."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import lnbench
from lnbench.analysis.side_by_side import Continuation, SideBySide, generate_side_by_side
from lnbench.cli.commands.generate import app
from lnbench.language_control.marked_lines import marked_lines
from lnbench.neurons import NeuronSet
from lnbench.special_tokens import chat_frame, chat_tokens
from lnbench.tables.render import csv_text
from lnbench.tables.side_by_side import side_by_side_table
from lnbench.testing import tiny_statistics
from tests.support.messages import lacks, refused
from tests.support.tiny import LAYERS, WIDTH, build, tokenizer

HI, ZH = {0: torch.arange(0, 12), 2: torch.arange(0, 8)}, {1: torch.arange(4, 20)}
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | trim }}</>{% endfor %}"
    "{% if add_generation_prompt %}<model>{% endif %}"
)


@pytest.fixture(scope="module")
def model() -> Iterator[Any]:
    yield build("llama")


def neurons() -> NeuronSet:
    return NeuronSet("tiny", LAYERS, WIDTH, {"hi": HI, "zh": ZH, "en": {}})


def plain(model: Any, prompt: str, **options: Any) -> str:
    words = tokenizer()
    ids = words(prompt, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        output = model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, max_new_tokens=6, **options)
    return str(words.decode(output[0, ids.shape[1] :], skip_special_tokens=True))


def test_each_column_is_plain_generation_under_its_override(model: Any) -> None:
    statistics = {code: own for code, own in tiny_statistics(model).items() if code in ("hi", "en")}
    statistics["zh"] = statistics["en"]
    result = lnbench.generate_side_by_side(
        model,
        tokenizer(),
        ["abc"],
        neurons(),
        ["none", "zero", "p90"],
        ["hi", "zh"],
        statistics=statistics,
        max_new_tokens=6,
    )
    assert result.columns == ["none", "zero hi", "zero zh", "p90 hi", "p90 zh"]
    for one in result.continuations:
        if one.language is None:
            assert one.text == plain(model, one.prompt, do_sample=False)
            continue
        own = HI if one.language == "hi" else ZH
        with lnbench.override(model, own, one.intervention, statistics=statistics[one.language]):
            assert one.text == plain(model, one.prompt, do_sample=False)
    assert len(result.continuations) == 5


def by_hand(model: Any, prompt: str, silenced: Any, raised: Any, means: torch.Tensor, steps: int = 6) -> str:
    """Greedy continuation without a cache, with each block's feed-forward written out."""

    def feed_forward(mlp: Any, layer: int) -> Any:
        def run(hidden: torch.Tensor) -> torch.Tensor:
            post = torch.nn.functional.silu(mlp.gate_proj(hidden))
            for index in silenced.get(layer, []):
                if index not in raised.get(layer, []):
                    post[..., index] = 0
            for index in raised.get(layer, []):
                post[..., index] += means[layer, index]
            return mlp.down_proj(post * mlp.up_proj(hidden))

        return run

    own = copy.deepcopy(model)
    for layer, block in enumerate(own.model.layers):
        block.mlp.forward = feed_forward(block.mlp, layer)
    words = tokenizer()
    ids = words(prompt, return_tensors="pt")["input_ids"]
    start = ids.shape[1]
    with torch.no_grad():
        for _ in range(steps):
            following = own(ids, use_cache=False).logits[0, -1].argmax()
            ids = torch.cat([ids, following.view(1, 1)], dim=1)
            if int(following) == own.config.eos_token_id:
                break
    return str(words.decode(ids[0, start:], skip_special_tokens=True))


def test_swap_is_a_hand_written_loop(model: Any) -> None:
    statistics = tiny_statistics(model)
    found = {
        "en": {0: [1, 2, 3, 20], 1: [5, 6, 7]},
        "hi": {0: [2, 3, 4, 11], 2: [0, 9, 10]},
        "zh": {1: [6, 7, 8, 9, 13]},
    }
    own = NeuronSet("tiny", LAYERS, WIDTH, found)
    result = generate_side_by_side(
        model,
        tokenizer(),
        ["abc", "0"],
        own,
        ["none", "swap", "swap:target=add_p90"],
        ["hi", "zh"],
        statistics=statistics,
        source="en",
        max_new_tokens=6,
    )
    assert result.columns == ["none", "swap hi", "swap zh", "swap:target=add_p90 hi", "swap:target=add_p90 zh"]
    for one in result.continuations:
        silenced, raised = (found["en"], found[one.language]) if one.language else ({}, {})
        values = statistics[one.language or "en"]
        means = values.quantile(0.9) if "p90" in one.column else values.mean
        assert one.text == by_hand(model, one.prompt, silenced, raised, means), one.column
    assert len({one.text for one in result.continuations if one.prompt == "abc"}) > 2, "something is changed"


def test_a_pair_is_given_by_source_and_languages(model: Any) -> None:
    statistics = tiny_statistics(model)
    own = NeuronSet("tiny", LAYERS, WIDTH, {code: {0: [1], 1: [number]} for number, code in enumerate(statistics)})
    options: dict[str, Any] = {"statistics": statistics, "source": "en", "max_new_tokens": 2}
    columns = generate_side_by_side(model, tokenizer(), "abc", own, ["zero", "swap"], **options).columns
    assert columns == ["zero en", "zero hi", "zero zh", "swap hi", "swap zh"], "not from a language to itself"
    with refused("swap", "'en'"):
        generate_side_by_side(model, tokenizer(), "abc", own, ["swap"], ["en"], **options)
    with refused("swap", "source"):
        generate_side_by_side(model, tokenizer(), "abc", own, ["swap"], ["hi"], statistics=statistics)


def test_the_command_takes_pairs(model: Any, tmp_path: Path, tiny_model: str) -> None:
    own = NeuronSet(Path(tiny_model).name, LAYERS, WIDTH, {code: {0: [1, 2], 2: [3]} for code in ("en", "hi", "zh")})
    own.save(tmp_path / "neurons.json")
    for statistics in tiny_statistics(AutoModelForCausalLM.from_pretrained(tiny_model)).values():
        statistics.save(tmp_path / "stats")
    words = ["abc", "--model", tiny_model, "--neurons", str(tmp_path / "neurons.json"), "--interventions", "swap"]
    words += ["--languages", "hi,zh", "--max-new-tokens", "3", "--format", "csv"]
    with refused("swap", "--source"):
        CliRunner().invoke(app, words, catch_exceptions=False)
    with refused("xx", "en"):
        CliRunner().invoke(app, [*words, "--source", "xx"], catch_exceptions=False)
    done = CliRunner().invoke(app, [*words, "--source", "en", "--statistics", str(tmp_path / "stats")])
    assert done.exit_code == 0, done.output
    assert not lacks(done.stdout, "swap hi", "swap zh")


def test_a_seed_is_the_same_in_every_column_and_leaves_the_random_state(model: Any) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    result = generate_side_by_side(model, tokenizer(), "abc", neurons(), ["none"], seeds=[3, 4], max_new_tokens=6)
    assert torch.equal(torch.rand(1), expected)
    torch.manual_seed(3)
    assert result.continuations[0].text == plain(model, "abc", do_sample=True, temperature=1.0, top_p=1.0, top_k=0)
    assert [one.seed for one in result.continuations] == [3, 4]
    again = generate_side_by_side(model, tokenizer(), "abc", neurons(), ["none"], seeds=[3, 4], max_new_tokens=6)
    assert again == result


def test_a_prompt_is_put_into_the_chat_template(model: Any) -> None:
    words = tokenizer()
    with refused("chat", "template"):
        generate_side_by_side(model, words, "abc", neurons(), ["none"], chat=True)
    words.chat_template = TEMPLATE
    assert chat_frame(words) == ("<bos><user>", "</><model>")
    whole = words.apply_chat_template([{"role": "user", "content": "abc"}], add_generation_prompt=True, tokenize=False)
    assert chat_tokens(words, "abc") == words(whole, add_special_tokens=False)["input_ids"]
    framed = generate_side_by_side(model, words, "abc", neurons(), ["none"], chat=True, max_new_tokens=6)
    assert framed.continuations[0].text == plain(model, "<user>abc</><model>", do_sample=False)


def test_faults_are_named(model: Any) -> None:
    with refused("ur", "en", "hi", "zh"):
        generate_side_by_side(model, tokenizer(), "abc", neurons(), ["zero"], ["ur"])
    with refused("en"):
        generate_side_by_side(model, tokenizer(), "abc", neurons(), ["zero"], ["en"], max_new_tokens=2)
    with refused("max_new_tokens", 0):
        generate_side_by_side(model, tokenizer(), "abc", neurons(), max_new_tokens=0)
    with refused("no_such"):
        generate_side_by_side(model, tokenizer(), "abc", neurons(), ["no_such"], ["hi"])


@pytest.mark.parametrize(
    ("text", "languages"),
    [
        ("The weather in the mountains is cold today.\nयह एक बहुत अच्छी किताब है।", ["en", "hi"]),
        ("今天天气很好，我们去公园散步吧。\n\n \nこれは日本語の文章です。", ["zh", "ja"]),
        ("🙂🙂\n12345\n---", ["und", "und", "und"]),
        ("zxq vbn\nThe answer is yes.", ["und", "en"]),
        ("", []),
        ("The quick brown fox jumps over the dog. " * 300, ["en"]),
    ],
)
def test_every_line_has_its_language(text: str, languages: list[str]) -> None:
    assert [line.language for line in marked_lines(text)] == languages


def test_tables_and_notebooks_hold_all_texts_escaped() -> None:
    ones = [Continuation("a <b>", f"c{n}", "zero", "hi", 1, f"line <i>{n}</i>\nnext") for n in range(2)]
    result = SideBySide(tuple(ones))
    page = result._repr_html_()
    assert "<b>" not in page
    assert "<i>" not in page
    assert page.count("line") == 2
    (row,) = side_by_side_table(result).rows
    assert row.labels[0] == "a <b> (seed 1)"
    assert len(row.labels) == 3
    assert not lacks(csv_text(side_by_side_table(result, numbers=True)), "c0", "c1")
