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
from lnbench.errors import LnbenchError, unknown
from lnbench.files import fingerprint
from lnbench.statistics.accumulate import LayerAccumulator, sample_quantiles
from lnbench.statistics.values import SiteValues, Statistics

Block = Tensor | tuple[Tensor, Tensor]
_SITES = ("pre", "post")
_INCIDENTAL = ("_name_or_path", "_commit_hash", "transformers_version", "architectures")
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
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
    if site not in _SITES:
        raise unknown("site", site, _SITES)
    sites = locate(model)
    observer = _Observer(sites, batch_levels)
    body = transformer_body(sites.model)
    device = input_device(sites.model)
    bar = tqdm(total=total, desc=f"statistics {language}", unit="tok", disable=not progress, leave=False)
    counted = 0
    with _evaluating(sites.model), observer.attached(), torch.inference_mode(), bar:
        for block in blocks:
            ids, mask = block if isinstance(block, tuple) else (block, None)
            observer.rows = _counted(ids, mask, skip)
            if len(observer.rows) == 0:
                continue
            body(
                input_ids=ids.to(device),
                attention_mask=mask.to(device) if mask is not None else None,
                use_cache=False,
            )
            counted += len(observer.rows)
            observer.check(counted, language)
            bar.update(len(observer.rows))
    if counted == 0:
        raise LnbenchError(
            f"no token of language {language!r} was counted: its text is empty, or its blocks are shorter than "
            f"{skip + 1} tokens"
        )
    with torch.inference_mode():
        values = observer.finish()
    known = describe_model(model) | (provenance or {})
    return Statistics(language, counted, site, values, known, observer.batch_means())


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout and the like off, and back on where it was on."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


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
        levels = torch.tensor(self.batch_levels, dtype=torch.float64)
        for site, values in zip(_SITES, (pre, post), strict=True):
            for level, quantile in zip(self.batch_levels, sample_quantiles(values.float(), levels), strict=True):
                key = (site, level, layer)
                self._batch_sums[key] = self._batch_sums.get(key, 0) + quantile.cpu()

    def check(self, tokens: int, language: str) -> None:
        """Raise unless every layer has counted ``tokens`` tokens and seen finite numbers only."""
        for layer in range(self.sites.layers):
            account = self.accumulators.get(layer)
            if account is None or account.tokens != tokens:
                seen = account.tokens if account else 0
                raise LnbenchError(
                    f"layer {layer} saw {seen} tokens of {tokens}: this model does not run every layer's non-linearity "
                    "once a forward pass, so its neurons cannot be observed"
                )
            if not torch.isfinite(account.sums).all():
                raise LnbenchError(
                    f"layer {layer} gave activations that are not finite numbers on {language!r} text; "
                    "load the model in float32 or bfloat16"
                )

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
        finished = [
            self.accumulators[layer].finish(activation) for layer, activation in enumerate(self.sites.activations)
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
        ``model`` (name), ``revision``, ``weights`` (fingerprint of the parameters, adapters included), ``config``
        (fingerprint of the configuration, quantisation included), ``adapter`` (fingerprint of the PEFT configuration,
        if any), ``dtype``, ``quantization`` and ``tokenizer`` (fingerprint, where one is given).
    """
    base = unwrap(model)
    config = base.config
    quantization = getattr(config, "quantization_config", None)
    method = getattr(quantization, "quant_method", None) or (
        quantization.get("quant_method") if isinstance(quantization, dict) else None
    )
    name, revision = getattr(config, "_name_or_path", "") or type(base).__name__, getattr(config, "_commit_hash", None)
    weights = weights_fingerprint(base)
    if any(parameter.is_meta for parameter in base.parameters()):
        # Offloaded weights are not here to be read, so their source stands for them.
        weights = fingerprint([weights, name, revision])
    described = {
        "model": name,
        "revision": revision,
        "weights": weights,
        "config": fingerprint({key: value for key, value in config.to_dict().items() if key not in _INCIDENTAL}),
        "adapter": _adapter_fingerprint(model, base),
        "dtype": str(base.dtype).removeprefix("torch."),
        "quantization": str(getattr(method, "value", method)) if method else None,
    }
    if tokenizer is not None:
        described["tokenizer"] = tokenizer_fingerprint(tokenizer)
    return described


def _adapter_fingerprint(model: Any, base: nn.Module) -> str | None:
    """What PEFT adds beyond the parameters inside ``base``: its configuration (scaling), and virtual tokens."""
    configs = getattr(model, "peft_config", None)
    if not configs:
        return None
    inside = {id(parameter) for parameter in base.parameters()}
    outside = nn.ParameterDict(
        {
            name.replace(".", "/"): parameter
            for name, parameter in model.named_parameters()
            if id(parameter) not in inside
        }
    )
    described = {name: {**one.to_dict(), "base_model_name_or_path": None} for name, one in configs.items()}
    return fingerprint([described, str(model.active_adapters), weights_fingerprint(outside)])


def input_device(model: Any) -> torch.device:
    """The device that token ids go to, also where the weights are offloaded."""
    hook = getattr(model.get_input_embeddings(), "_hf_hook", None)
    if (device := getattr(hook, "execution_device", None)) is not None:
        return torch.device(device)
    here = (parameter.device for parameter in model.parameters() if not parameter.is_meta)
    return next(here, torch.device("cpu"))


def weights_fingerprint(model: nn.Module) -> str:
    """16 hexadecimal digits that change with any parameter of ``model``, its adapters included.

    Every parameter enters with its name, shape, type, the sum of its bit patterns and up to 256 of its elements: enough
    to tell apart models that were trained differently without reading gigabytes through a hash, and the same whatever
    the device and the number of threads.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        data = parameter.detach()
        digest.update(f"{name} {tuple(data.shape)} {data.dtype}".encode())
        if data.is_meta or data.numel() == 0:
            continue
        bits = data.contiguous().flatten().view(_INTEGERS[data.element_size()])
        picked = bits[:: max(1, bits.numel() // 256)][:256]
        digest.update(int(bits.sum(dtype=torch.int64)).to_bytes(8, "big", signed=True))
        digest.update(picked.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """16 hexadecimal digits of a tokenizer's vocabulary and of what it makes of a line of several scripts."""
    probe = "lnbench 1234 – naïve, हिन्दी, اردو, 中文, Tiếng Việt\n\n  x"
    return fingerprint([sorted(tokenizer.get_vocab().items()), tokenizer(probe)["input_ids"]])
