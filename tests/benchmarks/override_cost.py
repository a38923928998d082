"""What overriding neurons costs: plain forward passes and overridden ones, interleaved in one run.

    python -m tests.benchmarks.override_cost [--model FOLDER_OR_PACKAGED_NAME] [--fraction 0.01] [--repeats 15]

The default model has the shape of Gemma 3 270M with a small vocabulary and random weights.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from lnbench.choices import override
from lnbench.model.locate import locate
from lnbench.model.packaged import resolve
from lnbench.model.sites import transformer_body
from lnbench.override_values import LayerOverride, Override
from tests.benchmarks.shapes import shapes

Run = Callable[[], Any]


def random_model() -> Any:
    """Gemma 3 270M's shape, except for its 262,144 words of vocabulary."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(shapes(vocabulary=4096)["gemma"])


def load(name: str | None) -> Any:
    if name is None:
        return random_model().float().eval()
    path = name if Path(name).exists() else resolve(name)
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def spread(layers: int, width: int, fraction: float) -> Override:
    """Neurons spread uniformly over all layers."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(layers * width, generator=generator)[: round(fraction * layers * width)].sort().values
    parts = {layer: chosen[chosen // width == layer] % width for layer in range(layers)}
    return Override({layer: LayerOverride(part, torch.rand(part.shape)) for layer, part in parts.items()})


def seconds(run: Run) -> tuple[float, float]:
    """What one run takes: of the clock, and of the processor, which a busy machine disturbs less."""
    start, worked = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - start, time.process_time() - worked


@dataclass
class Costs:
    """Runs without and with an override, in seconds of the clock and of the processor."""

    plain: list[tuple[float, float]]
    overridden: list[tuple[float, float]]

    def __str__(self) -> str:
        clock, processor = (
            [statistics.median(run[which] for run in runs) for runs in (self.plain, self.overridden)]
            for which in (0, 1)
        )
        fastest = min(run[1] for run in self.overridden) / min(run[1] for run in self.plain)
        return (
            f"plain {clock[0] * 1e3:9.2f} ms   overridden {clock[1] * 1e3:9.2f} ms   "
            f"ratio {clock[1] / clock[0]:.4f}   "
            f"of processor time {processor[1] / processor[0]:.4f}, of its minima {fastest:.4f}"
        )


def compare(run: Run, context: Callable[[], AbstractContextManager[Any]], repeats: int) -> Costs:
    """Time ``run`` plain and under ``context``, in turns.

    Which of the two is first takes turns as well, so that a drift of the machine's speed touches both alike.
    """
    costs = Costs([], [])
    for number in range(repeats):
        turns = [(nullcontext, costs.plain), (context, costs.overridden)]
        for enter, times in turns if number % 2 == 0 else reversed(turns):
            with enter():
                times.append(seconds(run))
    return costs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder, or a packaged model's name; by default random weights")
    parser.add_argument("--fraction", type=float, default=0.01, help="share of neurons overridden")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=128, help="tokens a row")
    parser.add_argument("--threads", type=int, default=None, help="torch's threads; by default as many as torch takes")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)

    model = load(given.model)
    sites = locate(model)
    body = transformer_body(model)
    change = spread(sites.layers, sites.width, given.fraction)
    ids = torch.randint(3, model.config.vocab_size, (given.batch, given.length))
    padded = torch.ones_like(ids)
    padded[::2, : given.length // 4] = 0
    print(
        f"{change.neurons} of {sites.layers} x {sites.width} neurons, {given.batch} x {given.length} tokens, "
        f"{torch.get_num_threads()} threads, {given.repeats} repeats; medians"
    )

    runs: dict[str, Run] = {
        "transformer body": lambda: body(input_ids=ids, use_cache=False),
        "transformer body, padded": lambda: body(input_ids=ids, attention_mask=padded, use_cache=False),
        "causal LM": lambda: model(input_ids=ids, use_cache=False),
        "causal LM, 16 x 1 token": lambda: [model(input_ids=ids[:1, :1], use_cache=False) for _ in range(16)],
    }
    with torch.inference_mode():
        for name, run in runs.items():
            run()
            context = lambda: override(model, change, sites=sites)  # noqa: E731
            print(f"{name:<26} {compare(run, context, given.repeats)}", flush=True)
    for name, located in {"located before": sites, "locating": None}.items():

        def enter(located: Any = located) -> None:
            with override(model, change, sites=located):
                pass

        cost = statistics.median(seconds(enter)[0] for _ in range(max(5, given.repeats)))
        print(f"entering and leaving, {name}: {cost * 1e3:.2f} ms")


if __name__ == "__main__":
    main()
