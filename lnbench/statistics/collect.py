"""Run text through a model's transformer body once, and keep an account of every neuron."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lnbench.architectures import Sites, locate, unwrap
from lnbench.errors import LnbenchError
from lnbench.files import fingerprint
from lnbench.statistics.accumulate import LayerAccumulator
from lnbench.statistics.values import SiteValues, Statistics

Block = Tensor | tuple[Tensor, Tensor]
_SITES = ("pre", "post")
log = logging.getLogger(__name__)


def collect_statistics(
    model: nn.Module,
    blocks: Iterable[Block],
    *,
    language: str,
    site: str = "post",
    skip: int = 1,
    batch_levels: Sequence[float] = (),
    provenance: dict[str, Any] | None = None,
    total: int | None = None,
    progress: bool = False,
) -> Statistics:
    """Observe every neuron while ``model`` reads one language's text. One pass; the output head is not run.

    Args:
        model: A supported Hugging Face causal LM.
        blocks: ``LongTensor[batch, length]`` each, or ``(input_ids, attention_mask)`` with 0 for padding.
        language: The text's language code.
        site: The site that the returned Statistics show first; both are collected.
        skip: Positions at the start of every block that are not counted. The default leaves out BOS, whose
            activations are outliers.
        batch_levels: Levels at which to also keep the mean over batches of each batch's quantile (the published
            estimate; slow).
        provenance: What to record beside the model's own description, e.g. the corpus fingerprint.
        total: Tokens expected, for the progress bar.
        progress: Show a progress bar on stderr.

    Raises:
        LnbenchError: unsupported model, no token counted, activations that are not finite numbers.
    """
    sites = locate(model)
    observer = _Observer(sites, batch_levels)
    body = transformer_body(sites.model)
    device = next(sites.model.parameters()).device
    bar = tqdm(total=total, desc=f"statistics {language}", unit="tok", disable=not progress, leave=False)
    training = sites.model.training
    sites.model.eval()
    try:
        with observer.attached(), torch.inference_mode(), bar:
            for block in blocks:
                ids, mask = block if isinstance(block, tuple) else (block, None)
                observer.rows = _counted(ids, mask, skip)
                body(
                    input_ids=ids.to(device),
                    attention_mask=mask.to(device) if mask is not None else None,
                    use_cache=False,
                )
                bar.update(len(observer.rows))
    finally:
        sites.model.train(training)
    tokens = observer.accumulators[0].tokens if observer.accumulators else 0
    if tokens == 0:
        raise LnbenchError(
            f"no token of language {language!r} was counted: its text is empty, or shorter than {skip + 1} tokens"
        )
    with torch.inference_mode():
        values = observer.finish()
    for layer, finite in enumerate(torch.isfinite(values["pre"].mean).all(1).tolist()):
        if not finite:
            raise LnbenchError(
                f"layer {layer} gave activations that are not finite numbers on {language!r} text; "
                "load the model in float32 or bfloat16"
            )
    return Statistics(
        language, tokens, site, values, describe_model(model) | (provenance or {}), observer.batch_means()
    )


class _Observer:
    """Hooks on all non-linearities that feed one accumulator a layer."""

    def __init__(self, sites: Sites, batch_levels: Sequence[float]) -> None:
        self.sites = sites
        self.accumulators: dict[int, LayerAccumulator] = {}
        self.rows: Tensor = torch.empty(0, dtype=torch.long)
        self.batch_levels = tuple(batch_levels)
        self._batch_sums: dict[tuple[str, float, int], Tensor] = {}
        self._batches = 0

    @contextmanager
    def attached(self) -> Iterator[None]:
        with ExitStack() as stack:
            for layer, module in enumerate(self.sites.activations):
                stack.callback(module.register_forward_hook(self._hook(layer)).remove)
            yield

    def _hook(self, layer: int) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            width = self.sites.width
            pre, post = args[0].reshape(-1, width), output.reshape(-1, width)
            if len(self.rows) == 0:
                return
            if len(self.rows) != len(pre):
                rows = self.rows.to(pre.device)
                pre, post = pre[rows], post[rows]
            if layer not in self.accumulators:
                self.accumulators[layer] = LayerAccumulator(width, pre.device)
            self.accumulators[layer].add(pre, post)
            self._add_batch_quantiles(layer, pre, post)

        return hook

    def _add_batch_quantiles(self, layer: int, pre: Tensor, post: Tensor) -> None:
        if not self.batch_levels:
            return
        self._batches += layer == 0
        levels = torch.tensor(self.batch_levels, dtype=torch.float32, device=pre.device)
        for site, values in zip(_SITES, (pre, post), strict=True):
            for level, quantile in zip(self.batch_levels, values.float().quantile(levels, dim=0), strict=True):
                key = (site, level, layer)
                self._batch_sums[key] = self._batch_sums.get(key, 0) + quantile.double().cpu()

    def batch_means(self) -> dict[str, dict[float, Tensor]]:
        layers = range(self.sites.layers)
        return {
            site: {
                level: torch.stack([self._batch_sums[site, level, layer] for layer in layers]).float() / self._batches
                for level in self.batch_levels
            }
            for site in (_SITES if self.batch_levels else ())
        }

    def finish(self) -> dict[str, SiteValues]:
        missing = set(range(self.sites.layers)) - set(self.accumulators)
        if missing:
            raise LnbenchError(f"layers {sorted(missing)} never ran in the forward pass, so nothing is known of them")
        finished = [
            self.accumulators[layer].finish(self.sites.activations[layer]) for layer in range(self.sites.layers)
        ]
        return {
            site: SiteValues(
                **{
                    part.name: torch.stack([getattr(layer[number], part.name) for layer in finished], dim=-2)
                    for part in fields(SiteValues)
                }
            )
            for number, site in enumerate(_SITES)
        }


def _counted(ids: Tensor, mask: Tensor | None, skip: int) -> Tensor:
    """The flat positions of the tokens that count: real, and past the first ``skip`` real ones of their row."""
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    return (real & (real.cumsum(1) > skip)).flatten().nonzero().squeeze(1).cpu()


def transformer_body(model: Any) -> nn.Module:
    """The model without its output head."""
    body = getattr(model, "base_model", None)
    return body if isinstance(body, nn.Module) else model


def describe_model(model: nn.Module, tokenizer: Any = None) -> dict[str, Any]:
    """What a model is, for provenance and cache keys.

    Returns:
        ``model`` (name), ``revision``, ``weights`` (fingerprint of the parameters, adapters included), ``dtype``,
        ``quantization`` and ``tokenizer`` (fingerprint, where one is given).
    """
    base = unwrap(model)
    config = base.config
    quantization = getattr(config, "quantization_config", None)
    method = getattr(quantization, "quant_method", None) or (
        quantization.get("quant_method") if isinstance(quantization, dict) else None
    )
    described = {
        "model": getattr(config, "_name_or_path", "") or type(base).__name__,
        "revision": getattr(config, "_commit_hash", None),
        "weights": weights_fingerprint(model),
        "dtype": str(base.dtype).removeprefix("torch."),
        "quantization": str(getattr(method, "value", method)) if method else None,
    }
    if tokenizer is not None:
        described["tokenizer"] = tokenizer_fingerprint(tokenizer)
    return described


def weights_fingerprint(model: nn.Module) -> str:
    """16 hexadecimal digits that change with any parameter of ``model``, its adapters included.

    Every parameter enters with its name, shape, type, exact sum and up to 256 of its elements, which is enough to tell
    apart models that were trained differently without reading gigabytes through a hash.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        data = parameter.detach()
        digest.update(f"{name} {tuple(data.shape)} {data.dtype}".encode())
        if data.is_meta or data.numel() == 0:
            continue
        flat = data.flatten()
        picked = flat[:: max(1, flat.numel() // 256)][:256]
        digest.update(flat.sum(dtype=torch.float64).cpu().numpy().tobytes())
        digest.update(picked.double().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """16 hexadecimal digits of a tokenizer's vocabulary and of what it makes of a line of several scripts."""
    probe = "lnbench 1234 – naïve, हिन्दी, اردو, 中文, Tiếng Việt\n\n  x"
    return fingerprint([sorted(tokenizer.get_vocab().items()), tokenizer(probe)["input_ids"]])
