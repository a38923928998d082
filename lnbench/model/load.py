"""A model and its tokenizer, loaded for use from Python."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from lnbench.hub_errors import hub_error
from lnbench.model.architectures import layout_of
from lnbench.model.describe import model_name, note_commit
from lnbench.model.locate import locate
from lnbench.model.packaged import DEFAULT_MODEL, resolve


class LoadedModel(NamedTuple):
    """A causal LM whose neurons were found, and its tokenizer: ``model, tokenizer = lnbench.load_model(…)``."""

    model: nn.Module
    tokenizer: Any

    def __repr__(self) -> str:
        dtype = str(self.model.dtype).removeprefix("torch.")
        return f"LoadedModel({model_name(self.model)!r}, {layout_of(locate(self.model).widths)} neurons, {dtype})"


def load_model(
    name: str = DEFAULT_MODEL, *, revision: str | None = None, device: str | None = None, **options: Any
) -> LoadedModel:
    """Load a causal LM and its tokenizer, as ``lm_eval --model lnbench`` does, and find its neurons.

    Args:
        name: A packaged model (``gemma-3-270m``), a model of the hub, or a folder.
        revision: Commit, branch or tag of the hub.
        device: As ``cuda``, ``cuda:1`` or ``cpu``; by default CUDA where there is one.
        options: Of transformers' ``from_pretrained``: ``dtype`` (by default that of the weights),
            ``trust_remote_code`` …

    Returns:
        The model, in evaluation mode, and its tokenizer.

    Raises:
        LnbenchError: there is no such model, or its neurons are not where lnbench knows to look.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = resolve(name)
    of_both = {"revision": revision} | {key: options[key] for key in ("trust_remote_code", "token") if key in options}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **of_both)
        model = AutoModelForCausalLM.from_pretrained(source, **{"dtype": "auto", **options, **of_both})
    except (OSError, ValueError) as error:
        raise hub_error(f"the model {name}", error) from error
    note_commit(model, revision)
    if "device_map" not in options:
        model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    loaded = LoadedModel(model.eval(), tokenizer)
    locate(model)  # One that lnbench cannot work on is refused here.
    return loaded
