"""Shapes of real models, for benchmarks on random weights."""

from __future__ import annotations

from typing import Any

from transformers import Gemma3TextConfig, LlamaConfig

VOCABULARY = 262_144


def shapes(vocabulary: int = VOCABULARY) -> dict[str, Any]:
    """Gemma 3 270M, a 30-layer Llama of 135 M parameters, and Llama 3.1 8B; but for the vocabulary."""
    return {
        "gemma": Gemma3TextConfig(
            hidden_size=640,
            intermediate_size=2048,
            num_hidden_layers=18,
            num_attention_heads=4,
            num_key_value_heads=1,
            head_dim=256,
            vocab_size=vocabulary,
        ),
        "llama": LlamaConfig(
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            vocab_size=vocabulary,
            tie_word_embeddings=True,
        ),
        "8b": LlamaConfig(
            hidden_size=4096,
            intermediate_size=14336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            vocab_size=vocabulary,
            tie_word_embeddings=True,
        ),
    }
