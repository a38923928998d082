"""How fast Statistics are collected: tokens/s beside the bare transformer body, in one run, and what else one could do.

    python -m tests.benchmarks.statistics_speed [--shape gemma|llama|8b] [--device cuda --dtype bfloat16]
        [--corpus 'data/{lang}.jsonl.gz' --language hi] [--tokens 8192] [--rounds 3]

In turns: the body alone on blocks made beforehand; lnbench, reading and tokenising included; the body with a count of
positive activations; and the published way (store the activations, seven ``torch.quantile`` a layer and batch, with the
output head, then a second pass for the share above a threshold). Models have random weights; the tokenizer is that of
gemma-3-270m.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lnbench.demo import CORPUS
from lnbench.model.describe import describe_model
from lnbench.model.locate import locate
from lnbench.model.packaged import DEFAULT_MODEL, resolve
from lnbench.model.sites import Sites, transformer_body
from lnbench.statistics.batching import fitting_batch_size
from lnbench.statistics.corpus_statistics import Reading, count_corpus, finished
from tests.benchmarks.shapes import shapes

QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
SHAPES = shapes()

Blocks = list[torch.Tensor]


@contextmanager
def hooked(sites: Sites, observe: Callable[[int, torch.Tensor], None]) -> Iterator[None]:
    with ExitStack() as hooks:
        for layer, module in enumerate(sites.activations):
            hook = module.register_forward_hook(lambda _m, _a, out, layer=layer: observe(layer, out))
            hooks.callback(hook.remove)
        yield


def bare(sites: Sites, blocks: Blocks) -> None:
    body = transformer_body(sites.model)
    for block in blocks:
        body(input_ids=block, use_cache=False)


def counting(sites: Sites, blocks: Blocks) -> None:
    counts = torch.zeros(sites.layers, sites.width, dtype=torch.int64, device=blocks[0].device)

    def observe(layer: int, out: torch.Tensor) -> None:
        counts[layer] += (out[:, 1:] > 0).sum((0, 1))

    with hooked(sites, observe):
        bare(sites, blocks)


def published(sites: Sites, blocks: Blocks) -> None:
    """Two passes of the whole model: batch means of quantiles, then the share of tokens above one of them."""
    levels = torch.tensor(QUANTILES, device=blocks[0].device)
    thresholds = torch.zeros(len(QUANTILES), sites.layers, sites.width, device=blocks[0].device)
    above = torch.zeros(sites.layers, sites.width, dtype=torch.int64, device=blocks[0].device)
    stored: dict[int, torch.Tensor] = {}
    with hooked(sites, lambda layer, out: stored.__setitem__(layer, out.detach().clone())):
        for block in blocks:
            sites.model(input_ids=block, use_cache=False)
            for layer, values in stored.items():
                flat = values.reshape(-1, sites.width).float()
                for number, level in enumerate(levels):
                    thresholds[number, layer] += torch.quantile(flat, level, dim=0) / len(blocks)
        for block in blocks:
            sites.model(input_ids=block, use_cache=False)
            for layer, values in stored.items():
                above[layer] += (values.reshape(-1, sites.width) > thresholds[5, layer]).sum(0)


class Peak:
    """The most memory above that at the start of a block: resident on a CPU, allocated on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.bytes, self._done = device, 0, threading.Event()

    def _resident(self) -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    def _watch(self, start: int) -> None:
        while not self._done.wait(0.01):
            self.bytes = max(self.bytes, self._resident() - start)

    def __enter__(self) -> Peak:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._start = torch.cuda.memory_allocated(self.device)
        else:
            self._thread = threading.Thread(target=self._watch, args=(self._resident(),))
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self.device) - self._start
        else:
            self._done.set()
            self._thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="gemma")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--corpus", default=CORPUS)
    parser.add_argument("--language", default="hi")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=8_192)
    parser.add_argument("--published-tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()

    device = torch.device(given.device)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(SHAPES[given.shape]).to(device, getattr(torch, given.dtype)).eval()
    tokenizer = AutoTokenizer.from_pretrained(resolve(DEFAULT_MODEL))
    sites, described = locate(model), describe_model(model, tokenizer)
    size = fitting_batch_size(sites, given.length)
    how = Reading(corpus=given.corpus, tokens=given.tokens, length=given.length, batch_size=size)
    blocks = [block.to(device) for block in how.blocks(how.open(given.language), tokenizer, size)]  # type: ignore[union-attr]
    few, tokens = [], 0
    for block in blocks:
        if tokens < given.published_tokens:
            few.append(block)
            tokens += block.numel()

    def lnbench() -> Any:
        return count_corpus(model, tokenizer, given.language, how, progress=False, described=described)

    account = lnbench()  # compiles, and warms up
    started = time.perf_counter()
    finished(account, site="post", activations=sites.activations)
    finish = time.perf_counter() - started
    every = sum(block.numel() for block in blocks)
    ways: dict[str, tuple[Callable[[], Any], int]] = {
        "bare body": (lambda: bare(sites, blocks), every),
        "lnbench": (lnbench, every),
        "count > 0 only": (lambda: counting(sites, blocks), every),
        "the published way": (lambda: published(sites, few), sum(block.numel() for block in few)),
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    peaks: dict[str, int] = dict.fromkeys(ways, 0)
    with torch.inference_mode():
        for turn in range(given.rounds):
            for name, (run, read) in ways.items():
                if turn and name == "the published way":
                    continue
                with Peak(device) as peak:
                    started = time.perf_counter()
                    run()
                    if device.type == "cuda":
                        torch.cuda.synchronize()
                    speeds[name].append(read / (time.perf_counter() - started))
                peaks[name] = max(peaks[name], peak.bytes)

    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{given.shape}, {given.dtype}, {where}; {every:,} tokens, {size} x {given.length} a forward pass")
    print(f"{'':18} {'tokens/s':>10} {'of the body':>12} {'memory, MiB':>12}")
    for name, all_speeds in speeds.items():
        paired = [one / body for one, body in zip(all_speeds, speeds["bare body"], strict=False)]
        print(
            f"{name:18} {statistics.median(all_speeds):>10,.0f} {statistics.median(paired):>12.3f} "
            f"{peaks[name] / 2**20:>12,.0f}"
        )
    bytes_kept = sum(
        tensor.numel() * tensor.element_size()
        for layer in account.layers
        if layer
        for tensor in layer.tensors().values()
    )
    print(f"kept a neuron: {bytes_kept / sites.layers / sites.width:,.0f} bytes; finishing a language: {finish:.2f} s")


if __name__ == "__main__":
    main()
