"""Descriptions of a model and its tokenizer: for provenance, and as keys of what was computed with them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lnbench.files import fingerprint
from lnbench.model.names import name_of
from lnbench.model.sites import unwrap
from lnbench.special_tokens import adds_bos

_COMMIT = "_commit_hash"
_INCIDENTAL = ("_name_or_path", _COMMIT, "transformers_version", "architectures")
_ADAPTERS = re.compile(r"\.(lora_\w+|modules_to_save)\.")
"""Parameters that PEFT puts into a model for LoRA."""
_WRAPPED = re.compile(r"\.(base_layer|original_module)\.")
"""What PEFT puts into the names of the others."""
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def describe_model(model: nn.Module, tokenizer: Any = None) -> dict[str, Any]:
    """Describe a model, for provenance and cache keys.

    Returns:
        ``model`` (name), ``revision``, ``weights`` (fingerprint of the parameters, adapters included), ``config``
        (fingerprint of the configuration, quantisation included), ``adapter`` (fingerprint of the PEFT configuration,
        if any), ``dtype``, ``quantization``, and where a tokenizer is given, ``tokenizer`` (fingerprint) and ``bos``
        (whether texts begin with BOS, see :mod:`lnbench.special_tokens`).
    """
    base = unwrap(model)
    return _described(model, base, weights_fingerprint(base), tokenizer)


def describe_base(adapted: nn.Module, tokenizer: Any = None) -> dict[str, Any]:
    """Describe a model with a LoRA adapter as :func:`describe_model` describes it without."""
    base = unwrap(adapted)
    parameters = [(name, value) for name, value in base.named_parameters() if not _ADAPTERS.search(name)]
    weights = _parameters_fingerprint((_WRAPPED.sub(".", name), value) for name, value in parameters)
    return _described(base, base, weights, tokenizer) | {"adapter": None}


def _described(model: nn.Module, base: Any, weights: str, tokenizer: Any) -> dict[str, Any]:
    config = base.config
    quantization = getattr(config, "quantization_config", None)
    method = getattr(quantization, "quant_method", None) or (
        quantization.get("quant_method") if isinstance(quantization, dict) else None
    )
    name, revision = model_name(base), getattr(config, _COMMIT, None)
    if any(parameter.is_meta for parameter in base.parameters()):
        # Offloaded weights are not here to be read, so their source is taken for them.
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
        described |= {"tokenizer": tokenizer_fingerprint(tokenizer), "bos": adds_bos(tokenizer)}
    return described


def note_commit(model: Any, revision: str | None) -> None:
    """Keep the commit that a model of the hub was loaded at in its configuration, where transformers does not.

    Args:
        model: The model, just loaded.
        revision: The revision that was asked for; None: the main branch.
    """
    name = str(getattr(model.config, "_name_or_path", "") or "")
    if getattr(model.config, _COMMIT, None) is None and "/" in name and not Path(name).expanduser().exists():
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(name, "config.json", revision=revision)
        if isinstance(cached, str):
            setattr(model.config, _COMMIT, Path(cached).parent.name)


def model_name(model: Any) -> str:
    """Return a loaded model's name as results record it, see :func:`lnbench.model.names.name_of`."""
    return name_of(str(getattr(model.config, "_name_or_path", "") or "")) or type(model).__name__


def _adapter_fingerprint(model: Any, base: nn.Module) -> str | None:
    """Return what PEFT adds beyond the parameters inside ``base``: its scaling configuration, and virtual tokens."""
    configs = getattr(model, "peft_config", None)
    if not configs:
        return None
    inside = {id(parameter) for parameter in base.parameters()}
    parameters = {name.replace(".", "/"): tensor for name, tensor in model.named_parameters()}
    outside = nn.ParameterDict({name: tensor for name, tensor in parameters.items() if id(tensor) not in inside})
    described = {name: {**config.to_dict(), "base_model_name_or_path": None} for name, config in configs.items()}
    return fingerprint([described, str(model.active_adapters), weights_fingerprint(outside)])


def weights_fingerprint(model: nn.Module) -> str:
    """Return 16 hexadecimal digits that change with any parameter of ``model``, its adapters included.

    Every parameter enters with its name, shape, type, the sum of its bit patterns and up to 256 of its elements: enough
    to tell apart models that were trained differently without reading gigabytes through a hash, and the same whatever
    the device and the number of threads.
    """
    return _parameters_fingerprint(model.named_parameters())


def _parameters_fingerprint(parameters: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, parameter in sorted(parameters, key=itemgetter(0)):
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
    """Return 16 hexadecimal digits of a tokenizer's vocabulary and of how it splits a line of several scripts."""
    probe = "lnbench 1234 – naïve, हिन्दी, اردو, 中文, Tiếng Việt\n\n  x"
    return fingerprint([sorted(tokenizer.get_vocab().items()), tokenizer(probe)["input_ids"]])
