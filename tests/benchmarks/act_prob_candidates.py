"""Compare ways to rank neurons for ``act_prob``: ``python -m tests.benchmarks.act_prob_candidates --help``.

Selects on each half of a text, zeroes each language's neurons of the first half, and reads other text of all.
A candidate is good if a language's own text suffers and the others' do not, and if both halves find the same neurons.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

import lnbench
from lnbench.corpora.corpus import open_corpus
from lnbench.lm import LNBenchLM
from lnbench.neurons import NeuronSet, draw_random
from lnbench.statistics import Statistics

LEVEL, FRACTION = 0.9, 0.004
MODEL = "gemma-3-270m"
Ranking = Callable[[Mapping[str, Statistics]], dict[str, Tensor]]


def relevance(statistics: Mapping[str, Statistics]) -> dict[str, Tensor]:
    """Return the share of tokens above the language's percentile of the layer: the definition without a contrast."""
    return {code: own.exceedance(own.pooled_quantile(LEVEL, "layer")) for code, own in statistics.items()}


def less_the_others(shares: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return each language's value less the mean of the others'."""
    total = torch.stack(list(shares.values())).sum(0)
    return {code: own - (total - own) / (len(shares) - 1) for code, own in shares.items()}


def contrast(statistics: Mapping[str, Statistics]) -> dict[str, Tensor]:
    """Return the relevance less its mean over the other languages."""
    return less_the_others(relevance(statistics))


def shares_within(statistics: Mapping[str, Statistics]) -> dict[str, Tensor]:
    """Return each language's share of tokens above the neuron's own percentile over all languages together."""
    low = torch.stack([own.min for own in statistics.values()]).amin(0).double()
    high = torch.stack([own.max for own in statistics.values()]).amax(0).double()
    for _ in range(40):
        middle = (low + high) / 2
        above = torch.stack([own.exceedance(middle.float()) for own in statistics.values()]).mean(0)
        low, high = torch.where(above > 1 - LEVEL, middle, low), torch.where(above > 1 - LEVEL, high, middle)
    return {code: own.exceedance(high.float()) for code, own in statistics.items()}


def within(statistics: Mapping[str, Statistics]) -> dict[str, Tensor]:
    """Return the share above the neuron's percentile over all languages, less its mean over the others."""
    return less_the_others(shares_within(statistics))


def log_odds(statistics: Mapping[str, Statistics]) -> dict[str, Tensor]:
    """Return the standardised log-odds of exceeding the neuron's percentile over all languages, against the others."""
    shares = shares_within(statistics)
    scores = {}
    for code, own in statistics.items():
        others = [other for other in statistics if other != code]
        counts = [(shares[code] * own.tokens, torch.tensor(own.tokens))]
        counts.append(
            (
                torch.stack([shares[other] * statistics[other].tokens for other in others]).sum(0),
                torch.tensor(sum(statistics[other].tokens for other in others)),
            )
        )
        (yes, all_), (yes_others, all_others) = counts
        odds = ((yes + 0.5) / (all_ - yes + 0.5)).log() - ((yes_others + 0.5) / (all_others - yes_others + 0.5)).log()
        error = sum((1 / (part + 0.5) for part in (yes, all_ - yes, yes_others, all_others - yes_others)), 0 * yes)
        scores[code] = odds / error.sqrt()
    return scores


def top(ranking: Ranking, statistics: Mapping[str, Statistics]) -> NeuronSet:
    """Return the best of a ranking."""
    first = next(iter(statistics.values()))
    count = round(FRACTION * first.layers * first.width)
    masks = {}
    for code, scores in ranking(statistics).items():
        mask = torch.zeros(scores.numel(), dtype=torch.bool)
        mask[scores.flatten().argsort(descending=True, stable=True)[:count]] = True
        masks[code] = mask.view(first.layers, first.width)
    return NeuronSet.from_masks(first.model, masks)


def lape(statistics: Mapping[str, Statistics]) -> NeuronSet:
    """Return LAPE's neurons."""
    return lnbench.select("lape", statistics)


def random_like(neurons: NeuronSet) -> NeuronSet:
    """Return as many random neurons in the same layers."""
    masks = {code: draw_random(code, neurons.per_layer(code), neurons.mask(code), 0) for code in neurons}
    return NeuronSet.from_masks(neurons.model, masks)


RANKINGS: dict[str, Ranking] = {"relevance": relevance, "contrast": contrast, "within": within, "log_odds": log_odds}


def bits_per_byte(lm: LNBenchLM, text: tuple[list[Tensor], int]) -> float:
    """Return the mean over a text's bytes."""
    nats = 0.0
    for ids in text[0]:
        with torch.inference_mode():
            scores = lm.model(ids).logits[:, :-1].log_softmax(-1)
        nats -= float(scores.gather(2, ids[:, 1:, None]).sum())
    return nats / text[1] / 0.6931471805599453


def common(neurons: NeuronSet) -> float:
    """Return the share of a language's neurons that all languages have, averaged over languages."""
    everywhere = torch.stack([neurons.mask(code) for code in neurons]).all(0).sum()
    return fmean(float(everywhere) / max(1, neurons.count(code)) for code in neurons)


def measured(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield what each candidate does, and random neurons like the default."""
    lm = LNBenchLM(MODEL, batch_size=8)
    halves: list[dict[str, Statistics]] = [{}, {}]
    texts = {}
    for code in options.languages.split("+"):
        read = list(
            lnbench.blocks(
                open_corpus(options.corpus, code), lm.tokenizer, length=128, batch_size=8, tokens=2 * options.tokens
            )
        )
        rows = torch.cat([batch for batch in read if batch.shape[1] == 128])
        for half in (0, 1):
            halves[half][code] = lnbench.collect_statistics(lm.model, rows[half::2].split(8), language=code)
        apart = open_corpus(options.text, code)
        later = list(islice(iter(apart), options.skip, None))
        ids = lm.tokenizer("\n".join(str(getattr(document, "text", document)) for document in later))["input_ids"]
        kept = [torch.tensor([[lm.tokenizer.bos_token_id, *ids[at : at + 127]]]) for at in range(1, options.read, 127)]
        size = sum(len(lm.tokenizer.decode(block[0, 1:]).encode()) for block in kept)
        texts[code] = ([torch.cat(kept)], size)
        print(code, halves[0][code].tokens, size, flush=True)
    sets = {name: (top(rank, halves[0]), top(rank, halves[1])) for name, rank in RANKINGS.items()}
    sets["lape"] = (lape(halves[0]), lape(halves[1]))
    before = {code: bits_per_byte(lm, text) for code, text in texts.items()}
    print(before, flush=True)
    sets["random"] = (random_like(sets["contrast"][0]), random_like(sets["contrast"][1]))
    for name, (neurons, second) in sets.items():
        harm = {}
        for zeroed in texts:
            with lnbench.override(lm.model, neurons[zeroed], "zero"):
                harm[zeroed] = {code: bits_per_byte(lm, text) - before[code] for code, text in texts.items()}
        own = fmean(harm[code][code] for code in texts)
        others = fmean(harm[code][other] for code in texts for other in texts if other != code)
        counts = {code: neurons.count(code) for code in texts}
        found = {
            "own": own,
            "others": others,
            "difference": own - others,
            "own_en": harm["en"]["en"],
            "stability": fmean(both.jaccard for both in neurons.compare(second).values()),
            "lape": fmean(both.jaccard for both in neurons.compare(sets["lape"][0]).values()),
            "common": common(neurons),
            "counts": counts,
            "fewest": min(counts.values()),
            "most": max(counts.values()),
        }
        print(name, json.dumps(found), flush=True)
        yield name, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--text", help="corpus to read; the same by default")
    parser.add_argument("--languages", default="en+vi+hi+ur+zh")
    parser.add_argument("--tokens", type=int, default=2000, help="of each half, per language")
    parser.add_argument(
        "--skip", type=int, default=300, help="documents that are left out before the text that is read"
    )
    parser.add_argument("--read", type=int, default=254, help="tokens per language to read")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.text = options.text or options.corpus
    found = {
        "command": f"python -m tests.benchmarks.act_prob_candidates --tokens {options.tokens} --read {options.read}",
        "model": MODEL,
        "text": "corpus/{lang}.jsonl.gz of LNBENCH_DATA, with --corpus",
        "rankings": dict(measured(options)),
    }
    options.out.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
