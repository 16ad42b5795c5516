"""Qwen. The first generation computes what Qwen2 computes, up to `seq_length` tokens; later ones are native."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.errors import ModelUnusable
from backends.families.sources import tokenizer_file
from backends.families.words import (
    Conversion,
    Encoder,
    Messages,
    Recognised,
    Tensors,
    Vocabulary,
    number,
    refuse_quantised,
    split_rows,
    split_system,
)

if TYPE_CHECKING:
    import torch

_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_END, _IM_START, _IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
_SPECIAL = (_END, _IM_START, _IM_END, *(f"<|extra_{index}|>" for index in range(205)))
_DEFAULT_SYSTEM = "You are a helpful assistant."
_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>{% endif %}"
    "{% for message in messages %}{% if not loop.first or message['role'] != 'system' %}{{ '\\n' }}{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n<|im_start|>assistant\\n' }}{% endif %}"
)
_RENAMED = {
    "ln_1.weight": "input_layernorm.weight",
    "ln_2.weight": "post_attention_layernorm.weight",
    "attn.c_proj.weight": "self_attn.o_proj.weight",
    "mlp.w1.weight": "mlp.up_proj.weight",
    "mlp.w2.weight": "mlp.gate_proj.weight",
    "mlp.c_proj.weight": "mlp.down_proj.weight",
}


def recognise(folder: Path, config: Mapping[str, Any], wanted: str) -> Recognised:
    """Qwen 1 by its model_type `qwen`; Qwen-VL and Qwen-Audio say the same and are refused."""
    if config.get("model_type") != "qwen":
        return Recognised(str(config["model_type"]), True, config.get("max_position_embeddings"))
    for key, name in (("visual", "Qwen-VL"), ("audio", "Qwen-Audio")):
        if config.get(key) is not None:
            raise ModelUnusable(f"{folder.name} is a {name} model, which answers about media: choose a text model.")
    refuse_quantised(config, folder)
    return Recognised("qwen1", False, number(config, folder, "seq_length", "n_positions"))


def conversion(folder: Path, config: Mapping[str, Any], kind: str) -> Conversion:
    """Qwen 1 as Qwen2ForCausalLM. The first release spelled its keys differently; both spellings are read."""
    length = number(config, folder, "seq_length", "n_positions")
    heads = number(config, folder, "num_attention_heads", "n_head")
    hidden = number(config, folder, "hidden_size", "n_embd")
    vocabulary = _vocabulary(folder)
    ids = {name: vocabulary.tokenizer.token_to_id(name) for name in (_END, _IM_START, _IM_END)}
    stretch = {
        "seq_length": length,
        "max_length": max(length, config.get("max_position_embeddings") or length),
        "dynamic_ntk": bool(config.get("use_dynamic_ntk", False)),
        "logn": bool(config.get("use_logn_attn", False)),
    }
    mapped = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": number(config, folder, "vocab_size", "padded_vocab_size"),
        "hidden_size": hidden,
        # The original counts both halves of the gated layer.
        "intermediate_size": number(config, folder, "intermediate_size", "ffn_hidden_size") // 2,
        "num_hidden_layers": number(config, folder, "num_hidden_layers", "n_layer"),
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": config.get("kv_channels") or hidden // heads,
        "hidden_act": "silu",
        "rms_norm_eps": config.get("layer_norm_epsilon", 1e-6),
        "rope_parameters": {"rope_type": "default", "rope_theta": float(config.get("rotary_emb_base", 10000))},
        "max_position_embeddings": length,
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
        "use_sliding_window": False,
        "bos_token_id": None,
        "eos_token_id": ids[_END],
        "pad_token_id": ids[_END],
        "qwen1_beyond_seq_length": stretch,
    }
    generation = {
        "do_sample": True,
        "top_k": 0,
        "top_p": 0.8,
        "repetition_penalty": 1.1,
        "eos_token_id": [ids[_IM_END], ids[_IM_START], ids[_END]],
        "pad_token_id": ids[_END],
    }
    longest = max(length, config.get("max_position_embeddings") or length)
    return Conversion(mapped, _rename, lambda: vocabulary, generation, _TEMPLATE, longest)


def _rename(name: str, tensor: torch.Tensor) -> Tensors:
    if name in ("transformer.wte.weight", "transformer.ln_f.weight", "lm_head.weight"):
        fixed = {"transformer.wte.weight": "model.embed_tokens.weight", "transformer.ln_f.weight": "model.norm.weight"}
        return [(fixed.get(name, name), tensor)]
    layer, _, part = name.removeprefix("transformer.h.").partition(".")
    if name.endswith((".inv_freq", ".masked_bias")):
        return []
    to = f"model.layers.{layer}."
    if part in ("attn.c_attn.weight", "attn.c_attn.bias"):
        last = part.rpartition(".")[2]
        return split_rows(f"{to}self_attn.", last, tensor, (tensor.shape[0] // 3,) * 3)
    return [(to + _RENAMED[part], tensor)] if part in _RENAMED else [(name, tensor)]


def _vocabulary(folder: Path) -> Vocabulary:
    from backends.families.fast_tokenizers import from_ranks, read_ranks

    ranks = read_ranks(tokenizer_file(folder, "qwen.tiktoken"))
    return Vocabulary(
        from_ranks(ranks, _PATTERN, _SPECIAL, nfc=True), {"eos_token": _END, "pad_token": _END}, roles=_roles()
    )


def _roles() -> dict[str, str]:
    return {"start": _IM_START, "end": _IM_END}


def chat_ids(kind: str, messages: Messages, encode: Encoder) -> list[int]:
    """ChatML as `make_context` of Qwen 1 builds it: a default system text, each part encoded on its own."""
    system, turns = split_system(messages)
    start, end, newline = [encode.control("start")], [encode.control("end")], encode.text("\n")

    def part(role: str, content: str) -> list[int]:
        return start + encode.text(role) + newline + encode.text(content) + end

    ids = part("system", _DEFAULT_SYSTEM if system is None else system)
    for role, content in turns:
        ids += newline + part(role, content)
    return ids + newline + start + encode.text("assistant") + newline
