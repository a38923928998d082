"""Selectors that read measures, against their formulas in plain Python; and the measures against the model's values."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lnbench import LnbenchError, collect_statistics
from lnbench.choices import needs_of, select
from lnbench.hookspecs import Needs
from lnbench.model.locate import locate
from lnbench.plugins.selectors.attribution import Attribution
from lnbench.plugins.selectors.average_precision import AveragePrecision, average_precision
from lnbench.statistics import Statistics
from lnbench.statistics.corpus_statistics import Reading, count_corpus
from lnbench.testing import tiny_statistics
from tests.plugins.test_selectors import LANGUAGES, chosen, lape, random_rates
from tests.support.messages import refused
from tests.support.overrides import tiny
from tests.support.samples import with_rates
from tests.support.tiny import HEADS, LAYERS, VOCABULARY, WIDTH, build, tokenizer

FEW = settings(max_examples=20, deadline=None, derandomize=True)
BLOCKS = [torch.randint(3, VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(seed)) for seed in range(3)]


def holding(measures, *, languages=LANGUAGES, shape=(2, 5), site="post") -> dict[str, Statistics]:
    """Statistics of which only the measures matter: language → choice → name → tensor."""
    zero = torch.zeros(shape)
    return {
        language: replace(with_rates(zero, language=language, site=site), measures=own)
        for language, own in zip(languages, measures, strict=False)
    }


# average_precision


def precision_by_hand(ranked: list[tuple[float, bool]]) -> float:
    """Σ over thresholds of (R − R before) · P, threshold by threshold."""
    positives = sum(positive for _, positive in ranked)
    before, total = 0.0, 0.0
    for threshold in sorted({value for value, _ in ranked}, reverse=True):
        above = [positive for value, positive in ranked if value >= threshold]
        recall, precision = sum(above) / positives, sum(above) / len(above)
        total += (recall - before) * precision
        before = recall
    return total


@FEW
@given(seed=st.integers(0, 10**6), texts=st.lists(st.integers(1, 6), min_size=2, max_size=4), steps=st.integers(1, 20))
def test_average_precision_is_its_sum_over_thresholds(seed, texts, steps):
    generator = torch.Generator().manual_seed(seed)
    means = [torch.randint(0, steps + 1, (count, 2, 5), generator=generator) / steps for count in texts]
    for positives in range(len(texts)):
        found = average_precision(means, positives)
        for layer in range(2):
            for index in range(5):
                ranked = [
                    (float(text[layer, index]), number == positives) for number, own in enumerate(means) for text in own
                ]
                assert float(found[layer, index]) == pytest.approx(precision_by_hand(ranked), abs=1e-12)


@FEW
@given(seed=st.integers(0, 10**6), count=st.integers(1, 10), parts=st.sampled_from(["top", "bottom", "middle"]))
def test_parts_are_the_ends_and_the_middle_of_the_ranking(seed, count, parts):
    generator = torch.Generator().manual_seed(seed)
    texts = [torch.randint(0, 4, (4, 2, 5), generator=generator).float() for _ in range(3)]
    statistics = holding([{"document_means": {"means": own}} for own in texts])
    neurons = select(AveragePrecision(parts=(parts,), count=count), statistics)
    for number, language in enumerate(statistics):
        precision = [round(value, 11) for value in average_precision(texts, number).flatten().tolist()]
        down = sorted(range(10), key=lambda place: (-precision[place], place))
        up = sorted(range(10), key=lambda place: (precision[place], place))
        first = (10 - count) // 2
        expected = {"top": down[:count], "bottom": up[:count], "middle": down[first : first + count]}[parts]
        assert chosen(neurons)[language] == {divmod(place, 5) for place in expected}


def test_a_unit_that_fires_for_one_language_alone_is_at_the_top_and_one_that_falls_silent_at_the_bottom():
    means = {language: torch.ones(3, 2, 5) for language in ("en", "hi", "zh")}
    means["hi"][:, 0, 1] = 5
    means["hi"][:, 1, 4] = torch.tensor([0.1, 0.2, 0.3])  # each text behind those of all others
    statistics = holding([{"document_means": {"means": own}} for own in means.values()], languages=means)
    both = chosen(select("average_precision:count=1", statistics))
    assert both["hi"] == {(0, 1), (1, 4)}
    assert chosen(select("average_precision:count=1:parts=top", statistics))["hi"] == {(0, 1)}


# attribution


def attributions(rates, tokens=10, key="sums") -> list[dict[str, dict[str, torch.Tensor]]]:
    empty = {"sums": torch.zeros(2, 20), "above": torch.zeros(2, 20), "tokens": torch.full((2,), tokens)}
    return [{"attribution": empty | {key: torch.tensor(rows).double() * tokens}} for rows in rates.values()]


@FEW
@given(seed=st.integers(0, 10**6), languages=st.integers(2, 5), key=st.sampled_from(["sums", "above"]))
def test_lape_over_attributions_is_lape(seed, languages, key):
    rates = random_rates(seed, languages, 2, 20, 1000)
    statistics = holding(attributions(rates, key=key), shape=(2, 20))
    selector = Attribution(rank="lape", statistic="mean" if key == "sums" else "share", top_fraction=0.2, bar=0.6)
    assert chosen(select(selector, statistics)) == lape(rates, 0.2, 0.6)


@FEW
@given(seed=st.integers(0, 10**6), languages=st.integers(2, 5))
def test_attributions_are_contrasted_with_the_mean_of_the_others(seed, languages):
    rates = random_rates(seed, languages, 2, 20, 1000)
    neurons = select(Attribution(fraction=0.1), holding(attributions(rates), shape=(2, 20)))
    for language, rows in rates.items():
        others = [each for code, each in rates.items() if code != language]
        contrast = {
            (layer, index): round(rows[layer][index] - sum(each[layer][index] for each in others) / len(others), 11)
            for layer in range(2)
            for index in range(20)
        }
        assert chosen(neurons)[language] == set(sorted(contrast, key=lambda place: (-contrast[place], place))[:4])


# removal_impact


def test_neurons_kept_in_enough_texts_without_those_of_another_language():
    kept = {"en": [[3, 3, 0], [1, 2, 3]], "hi": [[4, 0, 4], [4, 3, 4]]}
    texts = {"en": 3, "hi": 4}
    measured = [
        {"removal_impact:count=1": {"kept": torch.tensor(own), "texts": torch.full((2,), texts[language])}}
        for language, own in kept.items()
    ]
    statistics = holding(measured, languages=kept, shape=(2, 3))
    assert chosen(select("removal_impact:count=1", statistics)) == {
        "en": {(0, 0), (0, 1), (1, 2)},
        "hi": {(0, 0), (0, 2), (1, 0), (1, 2)},
    }
    assert chosen(select("removal_impact:count=1:share=0.6:without=en", statistics)) == {
        "en": {(0, 0), (0, 1), (1, 1), (1, 2)},
        "hi": {(0, 2), (1, 0)},
    }
    with refused("fr", "en, hi"):
        select("removal_impact:count=1:without=fr", statistics)


def entering(model, module: str, ids, mask, side="input"):
    """What enters a module of every layer, or leaves it, ``[layers, rows, tokens, width]``."""
    kept = []
    handles = [
        part.register_forward_hook(lambda _, args, output: kept.append(args[0] if side == "input" else output))
        for name, part in model.named_modules()
        if name.endswith(f".{module}")
    ]
    with torch.no_grad():
        model.base_model(input_ids=ids, attention_mask=mask)
    for handle in handles:
        handle.remove()
    return torch.stack([values.reshape(*ids.shape, -1) for values in kept])


@pytest.mark.parametrize(("model_type", "down"), [("llama", "down_proj"), ("gpt2", "mlp.c_proj"), ("opt", "fc2")])
def test_impact_is_what_removing_a_neuron_moves(model_type, down):
    model, mask = tiny(model_type), torch.ones_like(BLOCKS[0])
    mask[1, 4:] = 0
    products = entering(model, down, BLOCKS[0], mask)
    downs = [part for name, part in model.named_modules() if name.endswith(f".{down}")]
    impacts = torch.zeros(3, LAYERS, WIDTH)
    for layer, after in enumerate(downs):
        for row in range(3):
            read = products[layer, row, 1 : int(mask[row].sum())]
            for index in range(WIDTH):
                without = read.clone()
                without[:, index] = 0
                with torch.no_grad():
                    impacts[row, layer, index] = (after(without) - after(read)).norm()
    measure = "removal_impact:count=5"
    found = collect_statistics(model, [(BLOCKS[0], mask)], language="en", measures=(measure,)).measure(measure)
    torch.testing.assert_close(found["impacts"].float(), impacts.sum(0), rtol=1e-3, atol=1e-5)
    kept = (impacts.argsort(dim=-1, descending=True).argsort(dim=-1) < 5).sum(0)
    assert torch.equal(found["kept"], kept)
    assert found["texts"].tolist() == [3] * LAYERS


@pytest.mark.parametrize(
    ("model_type", "up", "part"),
    [("llama", "up_proj", slice(None)), ("phi3", "gate_up_proj", slice(WIDTH, None)), ("opt", "fc1", slice(None))],
)
def test_the_codes_score_is_the_sum_of_the_up_projections_output(model_type, up, part):
    model, mask = tiny(model_type), torch.ones_like(BLOCKS[0])
    ups = entering(model, up, BLOCKS[0], mask, "output")[..., part]
    scores = ups[:, :, 1:].abs().sum(2).transpose(0, 1)
    measure = "removal_impact:variant=code:fraction=0.25"
    found = collect_statistics(model, [BLOCKS[0]], language="en", measures=(measure,)).measure(measure)
    torch.testing.assert_close(found["impacts"].float(), scores.sum(0), rtol=1e-4, atol=1e-5)
    assert torch.equal(found["kept"], (scores.argsort(dim=-1, descending=True).argsort(dim=-1) < 6).sum(0))


# head_importance


def scaled(factors, layer, _module, args):
    return (args[0] * factors[layer].repeat_interleave(args[0].shape[-1] // HEADS),)


def heads_by_hand(model, blocks):
    """Each text's gradient of the mean loss with respect to a factor on every head, ``[texts, layers, heads]``."""
    found = []
    for block in blocks:
        for ids in block:
            factors = torch.ones(LAYERS, HEADS, requires_grad=True)
            handles = [
                part.self_attn.o_proj.register_forward_pre_hook(partial(scaled, factors, layer))
                for layer, part in enumerate(model.model.layers)
            ]
            model(ids[None], labels=ids[None]).loss.backward()
            model.zero_grad()
            for handle in handles:
                handle.remove()
            found.append(factors.grad)
    return torch.stack(found)


def test_heads_are_those_of_the_formula():
    model, statistics, expected = tiny("llama"), {}, {}
    for number, language in enumerate(("en", "hi")):
        blocks = BLOCKS[number : number + 2]
        gradients = heads_by_hand(model, blocks)
        expected[language] = (gradients.abs() * 1000).mean(0) * (gradients < 0).float().mean(0)
        statistics[language] = collect_statistics(
            model, blocks, language=language, sites=("attention",), measures=("head_importance",)
        )
        measured = statistics[language].measure("head_importance")
        torch.testing.assert_close(measured["sizes"].float(), gradients.abs().sum(0), rtol=1e-3, atol=1e-5)
        assert torch.equal(measured["negative"], (gradients < 0).sum(0))
        assert measured["texts"].tolist() == [6] * LAYERS
    neurons = select("head_importance:level=0.7:general=2", statistics)
    wanted = {
        language: {tuple(place) for place in (own > own.flatten().quantile(0.7)).nonzero().tolist()}
        for language, own in expected.items()
    }
    assert chosen(neurons) == wanted
    assert (neurons.site, neurons.width) == ("attention", HEADS)
    kinds = {
        name: {(layer, index) for layer, found in own.items() for index in found.tolist()}
        for name, own in neurons.classes.items()
    }
    assert kinds["general"] == wanted["en"] & wanted["hi"]
    assert kinds["specific"] == wanted["en"] ^ wanted["hi"]
    only = select("head_importance:level=0.7:general=2:classes=specific", statistics)
    assert chosen(only) == {language: own - kinds["general"] for language, own in wanted.items()}


def test_heads_need_statistics_of_heads():
    assert needs_of("head_importance") == Needs(sites=("attention",), measures=("head_importance",))
    statistics = {"en": collect_statistics(tiny("llama"), BLOCKS[:1], language="en", measures=("head_importance",))}
    with refused("attention", "'en'", "--site attention"):
        select("head_importance", statistics)


# What is missing or wrong


@pytest.mark.parametrize(
    ("selector", "measure"),
    [
        ("average_precision", "document_means:site=post"),
        ("average_precision:site=pre", "document_means:site=pre"),
        ("attribution", "attribution:site=post:threshold=0.001"),
        ("attribution:statistic=share:threshold=0.5", "attribution:site=post:threshold=0.5"),
        ("removal_impact:variant=code", "removal_impact:variant=code:fraction=0.14"),
    ],
)
def test_statistics_without_the_measure_say_how_to_collect_it(selector, measure):
    assert needs_of(selector).measures == (measure,)
    site = "pre" if "site=pre" in selector else "post"
    with refused("'en'", measure, f"--measure {measure}"):
        select(selector, {code: with_rates([[0.5]], language=code, site=site) for code in ("en", "hi")})


@pytest.mark.parametrize("selector", ["average_precision:fraction=0.1", "attribution"])
def test_wrong_site_and_one_language(selector):
    statistics = tiny_statistics(tiny("llama"), ("en", "hi"), selector=selector)
    name = selector.partition(":")[0]
    with refused(name, "'post'", "'pre'", "site=post"):
        select(selector, {code: own.at("pre") for code, own in statistics.items()})
    with refused(name, "two"):
        select(selector, {"en": statistics["en"]})


@pytest.mark.parametrize(
    ("selector", "named"),
    [
        ("average_precision", [1000, LAYERS * WIDTH, "count", "fraction"]),
        ("average_precision:count=0", ["count", 0]),
        ("average_precision:parts=upper", ["parts", "upper"]),
        ("average_precision:site=nowhere", ["site", "nowhere", "residual"]),
        ("attribution:rank=lape:statistic=share:threshold=1e9", ["share", 0, "threshold"]),
        ("attribution:threshold=-1", ["threshold", -1]),
        ("attribution:rank=best", ["rank", "best"]),
        ("removal_impact:count=25", ["count", 25, WIDTH]),
        ("removal_impact:share=2", ["share", 2]),
        ("removal_impact:variant=other", ["variant", "other"]),
        ("head_importance:level=1", ["level", 1]),
    ],
)
def test_bad_parameters(selector, named):
    with refused(*named, error=LnbenchError):
        select(selector, tiny_statistics(tiny("llama"), ("en", "hi"), selector=selector))


# The measures


def by_hand(model, ids, mask, site):
    """The values of every layer, ``[layers, rows, tokens, width]``."""
    kept = []
    handles = [
        module.register_forward_hook(lambda _, args, output: kept.append(args[0] if site == "pre" else output))
        for module in locate(model).activations
    ]
    with torch.no_grad():
        model.base_model(input_ids=ids, attention_mask=mask)
    for handle in handles:
        handle.remove()
    return torch.stack([values.reshape(*ids.shape, -1) for values in kept]).double()


@pytest.mark.parametrize("site", ["post", "pre"])
@pytest.mark.parametrize("model_type", ["llama", "opt"])
def test_means_are_those_of_each_text(model_type, site):
    model, mask = tiny(model_type), torch.ones_like(BLOCKS[0])
    mask[1, 4:] = 0
    mask[2, 1:] = 0  # nothing of this text counts
    blocks = [(BLOCKS[0], mask), (BLOCKS[1], torch.ones_like(mask))]
    measure = f"document_means:site={site}"
    means = collect_statistics(model, blocks, language="en", measures=(measure,)).measure(measure)["means"]
    expected = []
    for ids, real in blocks:
        values = by_hand(model, ids, real, site)
        for row in range(len(ids)):
            if counted := range(1, int(real[row].sum())):
                expected.append(sum(values[:, row, place] for place in counted) / len(counted))
    torch.testing.assert_close(means.double(), torch.stack(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("site", ["product", "residual", "attention"])
def test_further_sites(site):
    model, statistics = tiny("llama"), {}
    for selector in (f"average_precision:fraction=0.25:site={site}", f"attribution:fraction=0.25:site={site}"):
        statistics = tiny_statistics(model, ("en", "hi"), selector=selector, site=site)
        neurons = select(selector, statistics)
        assert neurons.site == site and neurons.widths == statistics["en"].widths
        assert all(neurons.count(language) for language in neurons)
    own = collect_statistics(
        model, BLOCKS[:1], language="en", site=site, measures=(f"document_means:site={site}",), skip=1
    )
    means = own.measure(f"document_means:site={site}")["means"]
    # Texts are of one length here, so that the mean of their means is that of all tokens.
    torch.testing.assert_close(means.mean(0), own.mean.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("measure", ["document_means", "attribution"])
def test_parts_of_a_text_make_the_whole(measure):
    model = tiny("llama")
    whole, *parts = (
        collect_statistics(model, blocks, language="en", measures=(measure,)).measure(measure)
        for blocks in (BLOCKS, BLOCKS[:1], BLOCKS[1:])
    )
    for name, tensor in whole.items():
        first, second = (part[name] for part in parts)
        both = torch.cat([first, second]) if name == "means" else first + second
        torch.testing.assert_close(both, tensor)


@pytest.mark.parametrize(
    "measure",
    ["document_means", "attribution", "removal_impact", "removal_impact:variant=code", "head_importance"],
)
def test_progress_that_is_kept_in_between_changes_nothing(measure: str, tiny_corpus: str, tmp_path: Path) -> None:
    reading = Reading(corpus=tiny_corpus, tokens=300, length=32, batch_size=2, measures=(measure,))
    model = build("llama")
    whole = count_corpus(model, tokenizer(), "hi", reading, progress=False)
    state = tmp_path / "hi.safetensors"
    saved = count_corpus(model, tokenizer(), "hi", reading, state=state, save_every=0, progress=False)
    expected, found = (counts.measures.tensors() for counts in (whole, saved))
    assert found.keys() == expected.keys()
    for choice, tensors in expected.items():
        for name, tensor in tensors.items():
            torch.testing.assert_close(found[choice][name], tensor, msg=f"{choice} {name}")
