"""Selectors that read measures, against their formulas in plain Python; and the measures against the model's values."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lnbench import LnbenchError, collect_statistics
from lnbench.choices import needs_of, select
from lnbench.model.locate import locate
from lnbench.plugins.selectors.attribution import Attribution
from lnbench.plugins.selectors.average_precision import AveragePrecision, average_precision
from lnbench.statistics import Statistics
from lnbench.testing import tiny_statistics
from tests.plugins.test_selectors import LANGUAGES, chosen, lape, random_rates
from tests.support.messages import refused
from tests.support.overrides import tiny
from tests.support.samples import with_rates
from tests.support.tiny import LAYERS, VOCABULARY, WIDTH

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


# What is missing or wrong


@pytest.mark.parametrize(
    ("selector", "measure"),
    [
        ("average_precision", "document_means:site=post"),
        ("average_precision:site=pre", "document_means:site=pre"),
        ("attribution", "attribution:site=post:threshold=0.001"),
        ("attribution:statistic=share:threshold=0.5", "attribution:site=post:threshold=0.5"),
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
        ("average_precision:site=nowhere", ["site", "nowhere"]),
        ("attribution:rank=lape:statistic=share:threshold=1e9", ["share", 0, "threshold"]),
        ("attribution:threshold=-1", ["threshold", -1]),
        ("attribution:rank=best", ["rank", "best"]),
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
