"""Tiny random-weight models of the architectures that people export, for the export scripts beside this file.

Two layers, hidden 32, 4 heads (2 of keys and values where an architecture has fewer), vocabulary 96.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GROUPED = {"num_key_value_heads": 2}
HEAD = {"head_dim": 8}


def _gpt2() -> Any:
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 96}
    return hf.GPT2Config(**sizes, initializer_range=0.3, bos_token_id=1, eos_token_id=2)


def _opt() -> Any:
    sizes = {k: v for k, v in SIZES.items() if k not in ("intermediate_size", "initializer_range")}
    return hf.OPTConfig(**sizes, ffn_dim=48, word_embed_proj_dim=32, init_std=0.3)


def _falcon() -> Any:
    return hf.FalconConfig(**SIZES, multi_query=True, parallel_attn=True, bias=False, alibi=False)


def _t5() -> Any:
    sizes = {"vocab_size": 96, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    return hf.T5Config(**sizes, feed_forward_proj="gated-gelu", initializer_factor=1.0, is_decoder=False)


DECODERS: dict[str, Callable[[], Any]] = {
    "llama": lambda: hf.LlamaConfig(**SIZES, **GROUPED),
    "llama_tied": lambda: hf.LlamaConfig(**SIZES, **GROUPED, tie_word_embeddings=True),
    "llama3": lambda: hf.LlamaConfig(
        **SIZES,
        **GROUPED,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    ),
    "yarn_llama": lambda: hf.LlamaConfig(
        **SIZES,
        **GROUPED,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    ),
    "linear_llama": lambda: hf.LlamaConfig(
        **SIZES,
        **GROUPED,
        rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    ),
    "ntk_llama": lambda: hf.LlamaConfig(
        **SIZES,
        **GROUPED,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
    ),
    "mistral": lambda: hf.MistralConfig(**SIZES, **GROUPED, **HEAD, sliding_window=4),
    "qwen2": lambda: hf.Qwen2Config(**SIZES, **GROUPED),
    "qwen3": lambda: hf.Qwen3Config(**SIZES, **GROUPED, **HEAD),
    "phi3": lambda: hf.Phi3Config(**SIZES, **GROUPED, original_max_position_embeddings=64),
    "gemma2": lambda: hf.Gemma2Config(
        **SIZES, **GROUPED, **HEAD, sliding_window=4, query_pre_attn_scalar=8, attn_logit_softcapping=2.0
    ),
    "gemma3": lambda: hf.Gemma3TextConfig(
        **SIZES, **GROUPED, **HEAD, sliding_window=4, query_pre_attn_scalar=8, sliding_window_pattern=2
    ),
    "gpt2": _gpt2,
    "gpt_neox": lambda: hf.GPTNeoXConfig(**SIZES),
    "opt": _opt,
    "falcon": _falcon,
    "mixtral": lambda: hf.MixtralConfig(
        **(SIZES | {"intermediate_size": 24}),
        **GROUPED,
        num_local_experts=4,
        num_experts_per_tok=2,
        experts_implementation="batched_mm",  # the one of three that the exporter can write
    ),
}

ENCODERS: dict[str, Callable[[], Any]] = {
    "bert": lambda: hf.BertConfig(**SIZES),
    "t5_encoder": _t5,
}


def build(name: str, **changes: Any) -> torch.nn.Module:
    """The model, with every vector parameter (gains, shifts, biases) moved off its constant start.

    Args:
        name: A key of :data:`DECODERS` or :data:`ENCODERS`.
        changes: Entries of a decoder's configuration that differ from the table.
    """
    torch.manual_seed(0)
    if name in DECODERS:
        kind = "eager" if name == "gemma2" else "sdpa"  # soft caps exist in the eager form only
        config = DECODERS[name]()
        for key, value in changes.items():
            setattr(config, key, value)
        model = hf.AutoModelForCausalLM.from_config(config, attn_implementation=kind)
    elif name == "t5_encoder":
        model = hf.T5EncoderModel._from_config(ENCODERS[name](), attn_implementation="eager")
    else:
        model = hf.AutoModel.from_config(ENCODERS[name](), attn_implementation="sdpa")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape))
    return model.eval()
