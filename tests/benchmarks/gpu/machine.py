"""The device that is measured, a model of a known shape on it, and how time and memory are taken there."""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3MoeConfig

from lnbench.model.describe import model_name
from lnbench.model.locate import locate
from lnbench.model.sites import Sites
from lnbench.neurons import NeuronSet
from tests.support.tiny import tokenizer

LANGUAGE = "en"
_EIGHT_BILLION = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
}
_TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}
_EXPERTS = {"num_experts": 32, "num_experts_per_tok": 4, "moe_intermediate_size": 768, "head_dim": 128}


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    shape: Mapping[str, int]
    mixture: Mapping[str, int]
    length: int
    """Tokens per block of text."""
    batch: int
    """Blocks per forward pass."""
    blocks: int
    """Forward passes per measurement of Statistics."""
    rounds: int
    documents: int
    """Of three choices each, for scoring."""
    decoded: int
    """Tokens generated per row."""
    steps: int
    """Optimiser steps per fine-tuning."""
    matrix: int
    """Side of the matrices whose product is the device's peak."""


SCALES = {
    "full": Scale(
        _EIGHT_BILLION,
        {**_EIGHT_BILLION, "hidden_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 16, **_EXPERTS},
        length=512,
        batch=16,
        blocks=4,
        rounds=5,
        documents=256,
        decoded=64,
        steps=8,
        matrix=8192,
    ),
    "tiny": Scale(
        _TINY,
        {**_TINY, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16},
        length=64,
        batch=4,
        blocks=2,
        rounds=2,
        documents=8,
        decoded=4,
        steps=2,
        matrix=256,
    ),
}


@dataclass
class Machine:
    """One device, the scale of its benchmarks, and the model that they share."""

    name: str
    scale: Scale
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="lnbench-gpu-")))

    @property
    def device(self) -> torch.device:
        """The device as torch knows it."""
        return torch.device(self.name)

    @property
    def dtype(self) -> torch.dtype:
        """bfloat16 on a GPU; float32 on a CPU, where bfloat16 is slower."""
        return torch.float32 if self.device.type == "cpu" else torch.bfloat16

    def build(self, config: Any) -> Any:
        """Return a model of random weights, made on the device."""
        torch.manual_seed(0)
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            with self.device:
                model = AutoModelForCausalLM.from_config(config, dtype=self.dtype)
        finally:
            torch.set_default_dtype(before)
        model.generation_config.eos_token_id = None
        return model.eval()

    @cached_property
    def model(self) -> Any:
        """The dense model."""
        return self.build(LlamaConfig(**self.scale.shape, tie_word_embeddings=False, max_position_embeddings=4096))

    @cached_property
    def sites(self) -> Sites:
        """The dense model's neurons."""
        return locate(self.model)

    @cached_property
    def saved(self) -> Path:
        """A folder that the dense model is loaded from, with a tokenizer of bytes."""
        self.model.save_pretrained(self.folder / "model")
        tokenizer().save_pretrained(self.folder / "model")
        return self.folder / "model"

    def mixture(self) -> Any:
        """Return a small mixture of experts."""
        config = Qwen3MoeConfig(**self.scale.mixture, decoder_sparse_step=1, max_position_embeddings=4096)
        config._experts_implementation = "grouped_mm"
        return self.build(config)

    def neurons(self, share: float) -> NeuronSet:
        """Return random neurons of the dense model: a share of every layer's."""
        generator = torch.Generator().manual_seed(0)
        mask = torch.rand(self.sites.layers, self.sites.width, generator=generator) < share
        mask[:, 0] = True
        return NeuronSet.from_masks(model_name(self.model), {LANGUAGE: mask})

    def text(self, blocks: int = 1) -> list[torch.Tensor]:
        """Return blocks of random tokens on the device."""
        generator = torch.Generator().manual_seed(1)
        size = (self.scale.batch, self.scale.length)
        return [torch.randint(3, 250, size, generator=generator).to(self.device) for _ in range(blocks)]

    def forget(self) -> None:
        """Free the dense model's memory."""
        for name in ("model", "sites"):
            self.__dict__.pop(name, None)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def wait(self) -> None:
        """Wait until the device has done everything."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, run: Callable[[], object]) -> float:
        """Return how long one run takes."""
        self.wait()
        started = time.perf_counter()
        run()
        self.wait()
        return time.perf_counter() - started

    def in_turns(self, ways: Mapping[str, Callable[[], object]], rounds: int | None = None) -> dict[str, float]:
        """Return the median seconds of each way; each is run once before, and they take turns."""
        for run in ways.values():
            run()
        times: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds or self.scale.rounds):
            for name, run in list(ways.items())[:: 1 if number % 2 == 0 else -1]:
                times[name].append(self.seconds(run))
        return {name: statistics.median(own) for name, own in times.items()}

    def peak_gib(self) -> float | None:
        """Return the most memory that was allocated since the last call in GiB; None on a CPU."""
        if self.device.type != "cuda":
            return None
        peak = torch.cuda.max_memory_allocated(self.device) / 2**30
        torch.cuda.reset_peak_memory_stats(self.device)
        return round(peak, 2)

    def describe(self) -> dict[str, Any]:
        """Return what the figures are of."""
        import importlib.metadata
        import platform

        packages = ("torch", "transformers", "lm-eval", "peft", "triton", "bitsandbytes", "accelerate")
        versions = {}
        for package in packages:
            try:
                versions[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                versions[package] = "not installed"
        cuda = self.device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self.device) if cuda else f"CPU, {torch.get_num_threads()} threads",
            "memory_gib": round(torch.cuda.get_device_properties(self.device).total_memory / 2**30, 1)
            if cuda
            else None,
            "cuda": torch.version.cuda if cuda else None,
            "python": platform.python_version(),
            "versions": versions,
            "dtype": str(self.dtype).removeprefix("torch."),
            "shape": dict(self.scale.shape),
        }
