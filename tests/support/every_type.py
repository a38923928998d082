"""A tiny random model of every causal-LM type that transformers has, from its default configuration made small."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

TYPES = tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
HIDDEN, WIDTH, EXPERT_WIDTH, LAYERS, VOCABULARY, HEAD = 32, 48, 24, 2, 200, 8

_SIZES: list[tuple[int, str]] = [
    (HIDDEN, "hidden_size d_model n_embd emb_dim embedding_dim embedding_size word_embed_proj_dim"),
    (
        WIDTH,
        "intermediate_size ffn_dim n_inner ffn_hidden_size decoder_ffn_dim encoder_ffn_dim d_inner dff dim_ff "
        "dense_intermediate_size intermediate_size_mlp feed_forward_size",
    ),
    (
        EXPERT_WIDTH,
        "moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size "
        "expert_ffn_hidden_size moe_shared_expert_intermediate_size",
    ),
    (LAYERS, "num_hidden_layers n_layer num_layers n_layers decoder_layers encoder_layers num_blocks"),
    (
        4,
        "num_attention_heads n_head num_heads n_heads attention_heads decoder_attention_heads encoder_attention_heads "
        "swa_num_attention_heads num_experts num_local_experts n_routed_experts moe_num_experts linear_num_value_heads "
        "linear_num_heads mamba_n_heads mamba_dt_rank rotary_dim",
    ),
    (
        2,
        "num_key_value_heads swa_num_key_value_heads num_kv_heads num_experts_per_tok moe_topk moe_k moe_top_k "
        "num_experts_per_token top_k_experts linear_num_key_heads index_n_heads eos_token_id",
    ),
    (
        HEAD,
        "head_dim dim_head d_head kv_channels swa_head_dim attention_head_dim global_head_dim linear_head_dim "
        "v_head_dim qk_nope_head_dim qk_rope_head_dim index_head_dim linear_key_head_dim linear_value_head_dim "
        "nope_head_dim swa_v_head_dim hidden_size_per_layer_input mamba_d_state mamba_chunk_size index_topk "
        "router_hidden_size",
    ),
    (16, "q_lora_rank kv_lora_rank o_lora_rank sliding_window mamba_d_head"),
    (1, "n_group num_expert_group topk_group n_shared_experts num_shared_experts moe_num_shared_experts bos_token_id"),
    (0, "pad_token_id"),
    (128, "max_position_embeddings n_positions n_ctx context_length"),
    (VOCABULARY, "vocab_size vocab_size_per_layer_input"),
    (VOCABULARY - 1, "image_token_id image_token_index"),
]
_SMALL = {name: size for size, names in _SIZES for name in names.split()}
_WHERE_NONE = ("pad_token_id", "bos_token_id", "eos_token_id", "n_inner")
"""Entries that are set even where the default is None."""


def _each(names: str, **entries: Any) -> dict[str, dict[str, Any]]:
    return {name: dict(entries) for name in names.split()}


_DENSE_FIRST = {"mlp_layer_types": ["dense", "sparse"]}
_HYBRID = {"layer_types": ["linear_attention", "full_attention"]}
_ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1}
_CONVOLUTION = {"layer_types": ["conv", "full_attention"]}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
_QWEN4 = _HYBRID | {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 16,
    "hc_lowrank": 8,
    "indexer_compress_ratio": 4,
    "hc_count": 2,
    "ngram_vocab_size_base": 64,
    "split_ngram_parts": 2,
    "ple_embed_dim": 8,
}
_GEMMA3N = {
    "num_hidden_layers": 4,
    "num_kv_shared_layers": 1,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
    "intermediate_size": [48, 48, 64, 64],
    "laurel_rank": 8,
    "altup_num_inputs": 2,
}
_ZAMBA = {"attention_hidden_size": 64, "n_mamba_heads": 2, "attention_head_dim": 16, "use_mamba_kernels": False}
_BYTES = {"vocab_size": 260}

CHANGES: dict[str, dict[str, Any]] = (
    _each("axk1 axk2 deepseek_v32 glm4_moe_lite glm_moe_dsa hy_v4", num_key_value_heads=4, **_DENSE_FIRST)
    | _each("exaone_moe hy_v3 laguna mimo_v2_flash mellum beam inkling_text minimax_m3_vl_text", **_DENSE_FIRST)
    | _each("kimi_linear bailing_hybrid", num_key_value_heads=4, **_DENSE_FIRST, **_HYBRID)
    | _each("minicpm3 youtu dots3_note_text", num_key_value_heads=4)
    | _each("qwen3_5_text qwen3_5_moe_text", **_HYBRID)
    | _each("qwen3_5 qwen3_5_moe", text_config=_HYBRID)
    | _each("qwen3_moe qwen2_moe flint", mlp_only_layers=[0])
    | _each("lfm2 lfm3", **_CONVOLUTION)
    | _each("hunyuan_v1_dense ministral", head_dim=HEAD)
    | _each("deepseek_v3", num_key_value_heads=4, first_k_dense_replace=1)
    | _each("glm4_moe", first_k_dense_replace=1)
    | _each("dots1", first_k_dense_replace=1, **_ROUTED)
    | {
        "afmoe": {"num_dense_layers": 1},
        "bamba": {"attn_layer_indices": [1], "mamba_d_head": 16},
        "blt": {
            "encoder_hash_byte_group_vocab": 64,
            "max_position_embeddings": 128,
            **_BYTES,
            "patcher_config": _BYTES | {"hidden_size": HIDDEN, "num_hidden_layers": 2},
            "encoder_config": _BYTES | {"hidden_size_global": 64},
            "decoder_config": _BYTES | {"hidden_size_global": 64},
            "global_config": {"hidden_size": 64, "head_dim": 16},
        },
        "cohere_compass_text": {
            "layer_types": ["full_attention", "sliding_attention"],
            "rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE},
        },
        "dbrx": {
            "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8},
            "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": HIDDEN},
            "max_seq_len": 128,
        },
        "deepseek_v2": {"num_key_value_heads": 4, "first_k_dense_replace": 1, "mlp_layer_types": ..., **_ROUTED},
        "ernie4_5_moe": {"moe_layer_start_index": 1},
        "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16},
        "gemma3n": {"text_config": _GEMMA3N},
        "gemma3n_text": _GEMMA3N,
        "gemma4_text": {
            "num_hidden_layers": 4,
            "num_kv_shared_layers": 2,
            "use_double_wide_mlp": True,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
        "gpt_neo": {"attention_types": [[["global"], LAYERS]]},
        "granitemoehybrid": _HYBRID | {"mamba_d_head": 16},
        "hunyuan_v1_moe": {"head_dim": HEAD, "num_experts": 4, "moe_topk": 2},
        "jamba": {
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "use_mamba_kernels": False,
        },
        "lfm2_moe": _CONVOLUTION | {"num_dense_layers": 1},
        "llama4_text": {"interleave_moe_layer_step": 2},
        "longcat_flash": {"num_key_value_heads": 4, "zero_expert_num": 2},
        "mamba2": {"head_dim": 16, "num_heads": 4, "state_size": 8, "n_groups": 1},
        "nemotron": {"head_dim": HEAD, "num_key_value_heads": 2},
        "qwen3_next": _HYBRID | {"mlp_only_layers": [0]},
        "qwen4_exp": {"text_config": _QWEN4},
        "qwen4_exp_text": _QWEN4,
        "recurrent_gemma": {"block_types": ["recurrent", "attention"], "lru_width": HIDDEN},
        "reformer": {
            "is_decoder": True,
            "axial_pos_embds": False,
            "attn_layers": ["local", "local"],
            "local_attn_chunk_length": 8,
            "num_buckets": 4,
            "attention_head_size": HEAD,
        },
        # Its cache has sizes rounded up to 64.
        "xlstm": {"hidden_size": 64, "embedding_dim": 64, "num_heads": 2, "chunk_size": 4, "qk_dim_factor": 1.0},
        "xmod": {"default_language": "en_XX"},
        "zamba": _ZAMBA | {"num_hidden_layers": 3, "layers_block_type": ["linear_attention", "hybrid", "hybrid"]},
        "zamba2": {
            "num_hidden_layers": 4,
            "layers_block_type": ["linear_attention", "hybrid"] * 2,
            "num_mem_blocks": 1,
            "attention_hidden_size": ...,
            "attention_head_dim": ...,
            "adapter_rank": 8,
            "mamba_d_head": 16,
            "n_mamba_heads": 4,
            "use_mamba_kernels": False,
        },
        "zaya": {"num_experts_per_tok": 1},
    }
)
"""What a type needs beside sizes; an ellipsis leaves an entry to the default."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "granitemoehybrid, dense": ("granitemoehybrid", {"num_local_experts": 0}),
    "jamba, one expert": ("jamba", {"num_experts": 1, "num_experts_per_tok": 1}),
    "nemotron_h, dense": ("nemotron_h", {"layers_block_type": ["linear_attention", "mlp"]}),
    "doge, mixture": ("doge", {"is_moe": True}),
}
"""Models of a type that its configuration makes dense, or a mixture."""


def _small(default: dict[str, Any]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for name, value in default.items():
        if isinstance(value, dict):
            if name.endswith("_config") and "model_type" in value:
                entries[name] = _small(value) | {"model_type": value["model_type"]}
        elif name in _SMALL and (value is not None or name in _WHERE_NONE):
            entries[name] = [_SMALL[name]] * LAYERS if isinstance(value, list | tuple) else _SMALL[name]
    return entries


def _merged(entries: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(entries)
    for name, value in changes.items():
        if value is ...:
            merged.pop(name, None)
        else:
            nested = isinstance(value, dict) and isinstance(merged.get(name), dict)
            merged[name] = _merged(merged[name], value) if nested else value
    return merged


def config_of(model_type: str, **changes: Any) -> Any:
    """The small configuration of a type."""
    if model_type == "dots3_note":
        text = config_of("dots3_note_text").to_dict()
        small = {
            "hidden_size": 16,
            "per_layer_config": {},
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "adapter_out_dim": HIDDEN,
        }
        vision = {**small, "adapter_in_dim": 16, "moe_intermediate_size": 16, "num_hidden_layers": 1}
        audio = {**small, "adapter_input_size": 16, "num_hidden_layers": 1}
        return CONFIG_MAPPING[model_type](text_config=text, vision_config=vision, audio_config=audio)
    kind = CONFIG_MAPPING[model_type]
    try:
        default = kind().to_dict()
    except Exception:  # Some have no defaults, and take what they are given.
        default = {}
    return kind(**_merged(_merged(_small(default), CHANGES.get(model_type, {})), changes))


@contextmanager
def _without_timm() -> Iterator[None]:
    """Leave out vision towers of the package timm, which text does not reach."""
    real = AutoModel.from_config

    def from_config(config: Any, **arguments: Any) -> Any:
        return nn.Identity() if hasattr(config, "architecture") else real(config=config, **arguments)

    with patch.object(AutoModel, "from_config", staticmethod(from_config)):
        yield


def build_type(name: str, *, seed: int = 0) -> PreTrainedModel:
    """A random model of a type, or of a variant of one."""
    model_type, changes = VARIANTS.get(name, (name, {}))
    config = config_of(model_type, **changes)
    torch.manual_seed(seed)
    with _without_timm():
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 and parameter.is_floating_point():
                parameter.copy_((torch.randn(parameter.shape, generator=generator) * 0.3).to(parameter.dtype))
    return model.eval()
