"""Where the neurons of some model types are, as a person reads it off their code: structure must find exactly these."""

from __future__ import annotations

from lnbench.model.architectures import Architecture

_QKVO = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
_QKV_OUT = (*_QKVO[:3], "self_attn.out_proj")


def _gated(blocks: str = "model.layers") -> Architecture:
    return Architecture(blocks, "mlp.act_fn", "mlp.gate_proj", "mlp.down_proj", up="mlp.up_proj", attention=_QKVO)


def _fused(*attention: str) -> Architecture:
    return Architecture(
        "model.layers", "mlp.activation_fn", "mlp.gate_up_proj", "mlp.down_proj", fused=True, attention=attention
    )


def _plain(blocks: str, activation: str, before: str, after: str, *attention: str) -> Architecture:
    return Architecture(blocks, activation, before, after, attention=attention)


ARCHITECTURES: dict[str, Architecture] = {
    "llama": _gated(),
    "mistral": _gated(),
    "ministral": _gated(),
    "qwen2": _gated(),
    "qwen3": _gated(),
    "gemma": _gated(),
    "gemma2": _gated(),
    "gemma3_text": _gated(),
    "gemma3": _gated("model.language_model.layers"),
    "cohere": _gated(),
    "cohere2": _gated(),
    "granite": _gated(),
    "olmo": _gated(),
    "olmo2": _gated(),
    "olmo3": _gated(),
    "smollm3": _gated(),
    "stablelm": _gated(),
    "phi3": _fused("self_attn.qkv_proj", "self_attn.o_proj"),
    "glm": _fused(*_QKVO),
    "glm4": _fused(*_QKVO),
    "gpt2": _plain("transformer.h", "mlp.act", "mlp.c_fc", "mlp.c_proj", "attn.c_attn", "attn.c_proj"),
    "gpt_neo": _plain(
        *("transformer.h", "mlp.act", "mlp.c_fc", "mlp.c_proj"),
        *(f"attn.attention.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj")),
    ),
    "gptj": _plain(
        *("transformer.h", "mlp.act", "mlp.fc_in", "mlp.fc_out"),
        *("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.out_proj"),
    ),
    "gpt_neox": _plain(
        *("gpt_neox.layers", "mlp.act", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
        *("attention.query_key_value", "attention.dense"),
    ),
    "bloom": _plain(
        *("transformer.h", "mlp.gelu_impl", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
        *("self_attention.query_key_value", "self_attention.dense"),
    ),
    "falcon": _plain(
        *("transformer.h", "mlp.act", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
        *("self_attention.query_key_value", "self_attention.dense"),
    ),
    "opt": _plain("model.decoder.layers", "activation_fn", "fc1", "fc2", *_QKV_OUT),
    "xglm": _plain("model.layers", "activation_fn", "fc1", "fc2", *_QKV_OUT),
    "phi": _plain("model.layers", "mlp.activation_fn", "mlp.fc1", "mlp.fc2", *_QKVO[:3], "self_attn.dense"),
    "starcoder2": _plain("model.layers", "mlp.act", "mlp.c_fc", "mlp.c_proj", *_QKVO),
}
