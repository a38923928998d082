"""For authors of plugins: tiny models, Statistics of them, and checks that a plugin keeps its contract.

In a plugin's tests::

    from lnbench.testing import check_intervention, check_selector

    def test_contract():
        check_selector(MySelector)
        check_intervention(MyIntervention, factor=2.0)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from lnbench.choices import needs_of, override, plan, select
from lnbench.hookspecs import Needs
from lnbench.neurons import NeuronSet
from lnbench.override_values import Override
from lnbench.statistics import Statistics, collect_statistics

VOCABULARY = 262
TINY_CONFIG: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 512,
}
LANGUAGES = ("en", "hi", "zh")


def tiny_model(model_type: str = "llama", *, seed: int = 0, **config: Any) -> Any:
    """Return a random causal LM of a few thousand weights, large enough that every neuron matters.

    Args:
        model_type: Of the configuration.
        seed: Another seed gives other weights.
        config: The configuration; by default 3 layers of 24 neurons.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    built = AutoConfig.for_model(model_type, vocab_size=VOCABULARY, **(config or TINY_CONFIG))
    built.bos_token_id, built.eos_token_id, built.pad_token_id = 1, 2, 0
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(built)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def tiny_statistics(
    model: Any, languages: Sequence[str] = LANGUAGES, *, selector: Any = None, site: str | None = None
) -> dict[str, Statistics]:
    """Return language → Statistics of ``model`` on random tokens, each language with a vocabulary of its own.

    Args:
        model: A causal LM, such as :func:`tiny_model`'s.
        languages: Their codes.
        selector: What this selector needs is collected too.
        site: Site shown first.
    """
    needs = Needs() if selector is None else needs_of(selector)
    share = (VOCABULARY - 3) // len(languages)
    statistics = {}
    for number, language in enumerate(languages):
        generator = torch.Generator().manual_seed(number)
        start = 3 + number * share
        blocks = [torch.randint(start, start + share, (4, 32), generator=generator) for _ in range(2)]
        statistics[language] = collect_statistics(
            model, blocks, language=language, site=site, measures=needs.measures, batch_levels=needs.batch_levels
        )
    return statistics


def check_selector(factory: Callable[..., Any], **parameters: Any) -> NeuronSet:
    """Check that a selector keeps its contract on a tiny model, and return what it selects.

    Args:
        factory: What the plugin registers.
        parameters: Its parameters.

    Raises:
        LnbenchError: it fails, or does not return a NeuronSet of the model's shape.
        AssertionError: it leaves out a language, changes the Statistics, or selects other neurons the second time.
    """
    selector = factory(**parameters)
    statistics = tiny_statistics(tiny_model(), selector=selector)
    before = {language: own.fingerprint for language, own in statistics.items()}
    neurons = select(selector, statistics)
    assert set(neurons) == set(statistics), "a selector returns neurons, or none, for every language"
    assert before == {language: own.fingerprint for language, own in statistics.items()}, "Statistics are not changed"
    assert select(factory(**parameters), statistics) == neurons, "the same Statistics give the same neurons"
    return neurons


def check_intervention(factory: Callable[..., Any], **parameters: Any) -> Override:
    """Check that an intervention keeps its contract on a tiny model, and return its Override.

    Args:
        factory: What the plugin registers.
        parameters: Its parameters.

    Raises:
        LnbenchError: it fails, or returns something else than an Override of the model's neurons.
        AssertionError: it changes neurons that it was not given, or gives other values the second time.
    """
    model = tiny_model()
    statistics = tiny_statistics(model)
    neurons = select("random:fraction=0.2", statistics)
    target, source = "hi", "en"
    pair: dict[str, Any] = {
        "target": target,
        "source": source,
        "languages": tuple(statistics),
        "neurons_of": neurons.__getitem__,
        "statistics_of": statistics.__getitem__,
    }
    change, again = (plan(neurons[target], factory(**parameters), statistics[target], **pair) for _ in range(2))
    assert change.fingerprint == again.fingerprint, "the same neurons and Statistics give the same values"
    allowed = neurons.union([target, source])
    for layer, part in change.parts:
        own = allowed.get(layer, torch.empty(0, dtype=torch.long))
        assert torch.isin(part.indices.cpu(), own).all(), f"layer {layer}: neurons that were not given"
    with override(model, change, statistics=statistics[target]) as applied, torch.no_grad():
        logits = model(torch.arange(3, 35).view(2, 16)).logits
    assert torch.isfinite(logits).all(), "the overridden model gives numbers that are not finite"
    assert applied.neurons == change.neurons
    return change
