"""Tiny models, and Statistics of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lnbench.choices import needs_of
from lnbench.hookspecs import Needs
from lnbench.model.architectures import POST
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
SITES = ("post", "pre", "product", "attention", "residual")
"""The sites that a tiny model has."""


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


def dead_model() -> Any:
    """Return :func:`tiny_model` with gate and value projections of 0: neurons and heads are 0 on every text."""
    model = tiny_model()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("gate_proj.weight", "v_proj.weight")):
                parameter.zero_()
    return model


def tiny_statistics(
    model: Any,
    languages: Sequence[str] = LANGUAGES,
    *,
    selector: Any = None,
    site: str | None = None,
    sites: Sequence[str] = (),
) -> dict[str, Statistics]:
    """Return language → Statistics of ``model`` on random tokens, each language with a vocabulary of its own.

    Args:
        model: A causal LM, such as :func:`tiny_model`'s.
        languages: Their codes.
        selector: What this selector needs is collected too.
        site: Site shown first.
        sites: Further sites that are counted.
    """
    needs = Needs() if selector is None else needs_of(selector)
    share = (VOCABULARY - 3) // len(languages)
    statistics = {}
    for number, language in enumerate(languages):
        generator = torch.Generator().manual_seed(number)
        start = 3 + number * share
        blocks = [torch.randint(start, start + share, (4, 32), generator=generator) for _ in range(2)]
        statistics[language] = collect_statistics(
            model,
            blocks,
            language=language,
            sites=tuple(dict.fromkeys((site or POST, *sites, *needs.sites))),
            measures=needs.measures,
            batch_levels=needs.batch_levels,
        )
    return statistics
