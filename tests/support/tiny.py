"""Tiny, randomly initialised models of every supported architecture, and a byte-level tokenizer for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from lnbench.testing import TINY_CONFIG, VOCABULARY, tiny_model

SELECTOR = "act_prob:fraction=0.15"
"""Finds some neurons in every layer of a tiny model."""
HIDDEN, WIDTH, LAYERS, HEADS = 16, 24, 3, 4

_COMMON = TINY_CONFIG
_GPT: dict[str, Any] = {"n_embd": HIDDEN, "n_inner": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 512}

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": _COMMON,
    "mistral": _COMMON,
    "ministral": _COMMON,
    "qwen2": _COMMON,
    "qwen3": _COMMON,
    "gemma": _COMMON,
    "gemma2": _COMMON,
    "gemma3_text": _COMMON,
    "gemma3": {
        "text_config": _COMMON | {"vocab_size": VOCABULARY},
        "vision_config": {
            "hidden_size": 8,
            "intermediate_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "image_size": 4,
            "patch_size": 2,
        },
        "mm_tokens_per_image": 1,
        "image_token_index": VOCABULARY - 1,
    },
    "phi3": _COMMON | {"pad_token_id": 0},
    "cohere": _COMMON,
    "cohere2": _COMMON,
    "granite": _COMMON,
    "olmo": _COMMON,
    "olmo2": _COMMON,
    "olmo3": _COMMON,
    "smollm3": _COMMON,
    "stablelm": _COMMON,
    "starcoder2": _COMMON,
    "glm": _COMMON,
    "glm4": _COMMON,
    "gpt2": _GPT,
    "gptj": _GPT | {"rotary_dim": 4},
    "gpt_neo": {
        "hidden_size": HIDDEN,
        "intermediate_size": WIDTH,
        "num_layers": LAYERS,
        "num_heads": HEADS,
        "attention_types": [[["global"], LAYERS]],
        "max_position_embeddings": 512,
    },
    "opt": {
        "hidden_size": HIDDEN,
        "ffn_dim": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "word_embed_proj_dim": HIDDEN,
        "max_position_embeddings": 512,
    },
    "xglm": {
        "d_model": HIDDEN,
        "ffn_dim": WIDTH,
        "num_layers": LAYERS,
        "attention_heads": HEADS,
        "max_position_embeddings": 512,
    },
    "bloom": {"hidden_size": HIDDEN, "n_layer": LAYERS, "n_head": HEADS},
    "gpt_neox": _COMMON,
    "falcon": {
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "ffn_hidden_size": WIDTH,
    },
    "phi": _COMMON,
}
"""Model type → its configuration; BLOOM's width is always four times its hidden size."""


def build(model_type: str, *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A tiny model with weights large enough that every neuron matters."""
    model: PreTrainedModel = tiny_model(model_type, seed=seed, **(CONFIGS[model_type] | changes))
    return model


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, so that any language's text has tokens; ``<bos>`` is added at the start."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<pad>", "<bos>", "<eos>"]
    vocabulary = {token: number for number, token in enumerate([*special, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(special)
    backend.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")


def save_tiny(folder: Path, model_type: str = "llama", **changes: object) -> str:
    """A tiny model with its tokenizer, as ``from_pretrained`` finds it."""
    build(model_type, **changes).save_pretrained(folder)  # type: ignore[arg-type]
    tokenizer().save_pretrained(folder)
    return str(folder)
