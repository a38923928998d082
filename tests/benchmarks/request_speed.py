"""Requests a second of ``lnbench`` with ``intervention=none`` beside lm-eval's ``hf``, on the same requests.

    LNBENCH_DATA=FOLDER python -m tests.benchmarks.request_speed [--languages en+hi] [--limit 32] [--batch-size 8]
        [--share-prefix]

Both answer each XNLI task's requests in turns, in one process, on one loaded model, with one batch size. Timed is what
lm-eval asks a model for, ``loglikelihood``: encoding, batching, forward passes, scores. The numbers must be the same.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from typing import Any

import lm_eval
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from lnbench.files import tasks_dir
from lnbench.lm import LNBenchLM
from lnbench.model.packaged import DEFAULT_MODEL, resolve

TOLERANCE = 1e-4
"""Nats by which a log-likelihood may differ: float32 noise of matrices of other shapes."""


@dataclass
class Timed:
    """A model, and how long it took over how many requests."""

    lm: Any
    seconds: list[float] = field(default_factory=list)
    requests: int = 0
    accuracy: dict[str, float] = field(default_factory=dict)
    likelihoods: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lm.loglikelihood = self._timed

    def _timed(self, requests: list[Any], *args: Any, **options: Any) -> Any:
        started = time.perf_counter()
        answers = type(self.lm).loglikelihood(self.lm, requests, *args, **options)
        self.seconds.append(time.perf_counter() - started)
        self.requests += len(requests)
        return answers

    def measure(self, task: str, manager: TaskManager, limit: int) -> None:
        """One task through lm-eval."""
        results = lm_eval.simple_evaluate(
            self.lm,
            tasks=[task],
            limit=limit,
            batch_size=self.lm.batch_size,
            task_manager=manager,
            bootstrap_iters=0,
            log_samples=True,
        )
        self.accuracy[task] = results["results"][task]["acc,none"]
        samples = sorted(results["samples"][task], key=lambda sample: sample["doc_id"])
        self.likelihoods += [float(choice[0]) for sample in samples for choice in sample["filtered_resps"]]

    def __str__(self) -> str:
        total = sum(self.seconds)
        return f"{self.requests} requests in {total:7.2f} s: {self.requests / total:7.2f} requests/s"


def main() -> None:
    """Print both speeds and their ratio; fail where a number differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="a folder, or a packaged model's name")
    parser.add_argument("--languages", default="en+hi+ur+vi+zh")
    parser.add_argument("--limit", type=int, default=16, help="documents a language")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--share-prefix", action="store_true", help="run what a document's requests share once")
    parser.add_argument("--threads", type=int, help="torch's threads; by default as many as torch takes")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)

    options = {"device": "cpu", "batch_size": given.batch_size}
    hf = HFLM(resolve(given.model), dtype="float32", **options)
    ours = LNBenchLM(hf.model, tokenizer=hf.tokenizer, share_prefix=given.share_prefix, **options)
    manager = TaskManager(include_path=str(tasks_dir()), include_defaults=False)
    languages = given.languages.split("+")
    for lm in (hf, ours):
        # Who touches memory first would pay for it.
        Timed(lm).measure(f"lnbench_xnli_{languages[0]}", manager, 1)
    models = {"hf": Timed(hf), "lnbench": Timed(ours)}
    for number, language in enumerate(languages):
        # Who is first takes turns, so that a drift of the machine's speed touches both alike.
        for model in list(models.values())[:: 1 if number % 2 == 0 else -1]:
            model.measure(f"lnbench_xnli_{language}", manager, given.limit)

    theirs, own = models["hf"], models["lnbench"]
    apart = [abs(first - second) for first, second in zip(theirs.likelihoods, own.likelihoods, strict=True)]
    print(f"{torch.get_num_threads()} threads, batches of {given.batch_size}, {given.limit} documents a language")
    for name, model in models.items():
        print(f"{name:<8} {model}")
    both = zip(own.accuracy, theirs.seconds, own.seconds, strict=True)
    ratios = (f"{task} {one / other:.2f}" for task, one, other in both)
    print(f"ratio    {sum(theirs.seconds) / sum(own.seconds):.2f} ({', '.join(ratios)})")
    equal = sum(one == 0 for one in apart)
    print(f"log-likelihoods: {equal} of {len(apart)} bit-equal, largest difference {max(apart):.2g} nats")
    assert theirs.accuracy == own.accuracy, (theirs.accuracy, own.accuracy)
    assert max(apart) <= TOLERANCE


if __name__ == "__main__":
    main()
