"""How fast a perplexity matrix is measured: lnbench beside plain forward passes with labels, in one run.

    python -m tests.benchmarks.perplexity_speed [--model gemma-3-270m] [--languages en+vi+hi] [--tokens 1000]
        [--device cuda --dtype bfloat16] [--rounds 3]

In turns, over the same blocks and the same overrides: lnbench, which reads each text once unchanged and computes logits
a few positions at a time; the naive way, ``model(input_ids, labels)`` for every cell, and for every cell the unchanged
model anew; and the same with the unchanged model read once. Without ``--model`` the weights are random, of Gemma 3
270M's shape and vocabulary. The tokenizer is that of gemma-3-270m.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lnbench.choices import override
from lnbench.demo import CORPUS
from lnbench.model.locate import locate
from lnbench.model.packaged import DEFAULT_MODEL, resolve
from lnbench.neurons import NeuronSet, draw_random
from lnbench.perplexity.measure import measure
from lnbench.perplexity.slices import Slice, cut
from lnbench.statistics import describe_model
from tests.benchmarks.shapes import shapes

Cells = dict[tuple[str, str], float]
Slices = Mapping[str, Slice]


def drawn(name: str, layers: int, width: int, languages: Sequence[str]) -> NeuronSet:
    """One neuron in a hundred for each language."""
    counts, none = torch.full((layers,), width // 100), torch.zeros(layers, width, dtype=torch.bool)
    return NeuronSet.from_masks(name, {one: draw_random(one, counts, none, 0) for one in languages})


def mean_nats(model: Any, text: Slice, size: int) -> float:
    """By the model's own loss; blocks of one length only."""
    total, tokens = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(text.blocks), size):
            ids = torch.stack(text.blocks[start : start + size]).to(model.device)
            counted = torch.stack(text.counted[start : start + size]).to(model.device)
            labels = ids.clone()
            labels[:, 1:][~counted] = -100
            count = int(counted.sum())
            total += float(model(input_ids=ids, labels=labels, use_cache=False).loss) * count
            tokens += count
    return total / tokens


def naive(model: Any, neurons: NeuronSet, slices: Slices, size: int, *, once: bool) -> Cells:
    """Every cell by itself; ``once``: the unchanged model reads each text once."""
    known = {read: mean_nats(model, text, size) for read, text in slices.items()} if once else {}
    cells = {}
    for changed in neurons:
        for read, text in slices.items():
            before = known[read] if once else mean_nats(model, text, size)
            with override(model, neurons[changed], "zero"):
                cells[changed, read] = mean_nats(model, text, size) - before
    return cells


def ours(model: Any, tokenizer: Any, neurons: NeuronSet, slices: Slices, size: int) -> Cells:
    found = measure(model, tokenizer, neurons, {}, slices, controls=0, batch_size=size)
    return {(cell.changed, cell.read): cell.delta_nats for cell in found.cells}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder, or a packaged model's name; by default random weights")
    parser.add_argument("--shape", default="gemma", choices=shapes(), help="of the random weights")
    parser.add_argument("--languages", default="en+vi+hi")
    parser.add_argument("--corpus", default=CORPUS)
    parser.add_argument("--tokens", type=int, default=1000, help="a language")
    parser.add_argument("--length", type=int, default=128, help="tokens a block")
    parser.add_argument("--batch", type=int, default=4, help="blocks a forward pass")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    given = parser.parse_args()

    dtype = getattr(torch, given.dtype)
    if given.model:
        model = AutoModelForCausalLM.from_pretrained(resolve(given.model), dtype=dtype)
    else:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(shapes()[given.shape], dtype=dtype)
    model = model.to(given.device).eval()
    tokenizer = AutoTokenizer.from_pretrained(resolve(DEFAULT_MODEL))
    languages = given.languages.split("+")
    blocks = -(-given.tokens // (given.length - 1))
    slices = {
        # Whole blocks, as the naive way takes no padding.
        one: cut(tokenizer, given.corpus, one, tokens=blocks * (given.length - 1), length=given.length)
        for one in languages
    }
    sites = locate(model)
    neurons = drawn(describe_model(model)["model"], sites.layers, sites.width, languages)
    ways: dict[str, Callable[[], Cells]] = {
        "lnbench": lambda: ours(model, tokenizer, neurons, slices, given.batch),
        "naive": lambda: naive(model, neurons, slices, given.batch, once=False),
        "naive, unchanged once": lambda: naive(model, neurons, slices, given.batch, once=True),
    }
    mean_nats(model, next(iter(slices.values())), given.batch)  # the first pass of all is slow
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, Cells] = {}
    for _ in range(given.rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            found[name] = way()
            seconds[name].append(time.perf_counter() - start)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(f"{name:<22} {seconds[name][-1]:8.2f} s   (peak of the process so far {peak:.1f} GiB)", flush=True)
    off = max(abs(found["lnbench"][cell] - found["naive"][cell]) for cell in found["naive"])
    texts = sum(int(text.tokens.sum()) for text in slices.values())
    print(f"{len(languages)} x {len(languages)} cells, {texts:,} tokens of text, {torch.get_num_threads()} threads")
    for name in list(ways)[1:]:
        ratio = statistics.median(slow / fast for slow, fast in zip(seconds[name], seconds["lnbench"], strict=True))
        print(f"{name} / lnbench: {ratio:.2f} of the time; largest difference of a cell {off:.1e} nats per token")


if __name__ == "__main__":
    main()
