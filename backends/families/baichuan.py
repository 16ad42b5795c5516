"""Baichuan. The rotary models compute what Llama computes; the ALiBi ones have a small class of their own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.families.sources import SentencePieceModel, read_json, read_sentencepiece, tokenizer_file
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

_ROWS = 4096  # of the output layer that are normalised at a time, to bound memory


def recognise(folder: Path, config: Mapping[str, Any], wanted: str) -> Recognised:
    """Rotary (7B) when config.json has max_position_embeddings, else ALiBi; the generation by the tokenizer."""
    refuse_quantised(config, folder)
    rotary = config.get("max_position_embeddings") is not None
    length = number(config, folder, "model_max_length", "max_position_embeddings")
    kind = wanted or f"baichuan{'2' if _is_second(folder, config) else ''}-{'7b' if rotary else '13b'}"
    return Recognised(kind, False, length)


def _is_second(folder: Path, config: Mapping[str, Any]) -> bool:
    if config.get("vocab_size") in (64000, 125696) and not (folder / "tokenizer.model").is_file():
        return bool(config["vocab_size"] == 125696)
    model = read_sentencepiece(tokenizer_file(folder, "tokenizer.model"))
    user = model.piece(_role_ids(folder)[0])
    # The role tokens are the same ids in both; their names differ.
    return user == "<reserved_106>" or (user != "<reserved_102>" and not model.add_dummy_prefix)


def _role_ids(folder: Path) -> tuple[int, int]:
    generation = read_json(folder / "generation_config.json", optional=True)
    return int(generation.get("user_token_id", 195)), int(generation.get("assistant_token_id", 196))


def conversion(folder: Path, config: Mapping[str, Any], kind: str) -> Conversion:
    """As LlamaForCausalLM, or BaichuanAlibiForCausalLM for the 13B models."""
    heads = number(config, folder, "num_attention_heads")
    length = number(config, folder, "model_max_length", "max_position_embeddings")
    alibi = kind.endswith("13b")
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    special = {name: config.get(name, default) for name, default in special.items()}
    mapped = {
        "architectures": ["BaichuanAlibiForCausalLM" if alibi else "LlamaForCausalLM"],
        "model_type": "baichuan_alibi" if alibi else "llama",
        "vocab_size": number(config, folder, "vocab_size"),
        "hidden_size": number(config, folder, "hidden_size"),
        "intermediate_size": number(config, folder, "intermediate_size"),
        "num_hidden_layers": number(config, folder, "num_hidden_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "hidden_act": config.get("hidden_act", "silu"),
        "rms_norm_eps": config.get("rms_norm_eps", 1e-6),
        "max_position_embeddings": length,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
        **special,
    }
    if not alibi:
        mapped["rope_parameters"] = {"rope_type": "default", "rope_theta": float(config.get("rope_theta", 10000))}
    second = kind.startswith("baichuan2")
    base = kind == "baichuan-7b"
    generation: dict[str, Any] = {"eos_token_id": special["eos_token_id"], "pad_token_id": special["pad_token_id"]}
    if not base:
        penalty = 1.05 if second else 1.1
        sampling = {"do_sample": True, "temperature": 0.3, "top_k": 5, "top_p": 0.85, "repetition_penalty": penalty}
        generation = {**sampling, **generation}
    vocabulary = _vocabulary(folder, kind)
    template = _BASE_TEMPLATE if base else _template(vocabulary.roles, second)
    return Conversion(mapped, partial(_rename, second), lambda: vocabulary, generation, template, length)


def _rename(second: bool, name: str, tensor: torch.Tensor) -> Tensors:
    if name.endswith((".inv_freq", ".masked_bias")):
        return []
    if name.endswith(".W_pack.weight"):
        return split_rows(name.removesuffix("W_pack.weight"), "weight", tensor, (tensor.shape[0] // 3,) * 3)
    return [(name, _normalised(tensor) if second and name == "lm_head.weight" else tensor)]


def _normalised(tensor: torch.Tensor) -> torch.Tensor:
    """Each row at length one, as the original does on its first use; kept in float32."""
    import torch

    result = torch.empty(tensor.shape, dtype=torch.float32, device=tensor.device)
    for start in range(0, tensor.shape[0], _ROWS):
        result[start : start + _ROWS] = torch.nn.functional.normalize(tensor[start : start + _ROWS].float(), dim=1)
    return result


def _vocabulary(folder: Path, kind: str) -> Vocabulary:
    from backends.families.fast_tokenizers import from_pieces

    model = read_sentencepiece(tokenizer_file(folder, "tokenizer.model"))
    names = {"bos_token": model.piece(1), "eos_token": model.piece(2), "unk_token": model.piece(0)}
    names["pad_token"] = names["unk_token"]
    if kind == "baichuan-7b":
        return Vocabulary(from_pieces(model, _controls(model)), names)
    user, assistant = (model.piece(index) for index in _role_ids(folder))
    built = from_pieces(model, _controls(model), [user, assistant])
    return Vocabulary(built, names, (user, assistant), {"user": user, "assistant": assistant})


def _controls(model: SentencePieceModel) -> list[str]:
    return [model.piece(index) for index in range(3)]


_BASE_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% if not loop.last %}\n{% endif %}{% endfor %}"


def _template(roles: Mapping[str, str], second: bool) -> str:
    user, assistant = roles["user"], roles["assistant"]
    # The first generation knows no system text: it goes in front of the first question.
    gap = "" if second else "\n\n"
    turn = (
        f"{{% if message['role'] == 'user' %}}{user}{{{{ held.system }}}}{{% set held.system = '' %}}"
        f"{{% else %}}{assistant}{{% endif %}}{{{{ message['content'] }}}}"
    )
    if second:
        system, turn = "{{ message['content'] }}", turn.replace("{{ held.system }}{% set held.system = '' %}", "")
    else:
        system = f"{{% set held.system = message['content'] + '{gap}' %}}".replace("\n", "\\n")
    return (
        "{% set held = namespace(system='') %}{% for message in messages %}{% if message['role'] == 'system' %}"
        f"{system}{{% else %}}{turn}{{% endif %}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{assistant}{{% endif %}}"
    )


def chat_ids(kind: str, messages: Messages, encode: Encoder) -> list[int]:
    """Role token and text in turn, the system text of the second generation without a marker in front.

    The first generation knows no system role: its text goes in front of the first question. Baichuan-7B is a base
    model: the texts are put one under the other, for it to go on.
    """
    system, turns = split_system(messages)
    if kind == "baichuan-7b":
        texts = ([system] if system else []) + [content for _, content in turns]
        return encode.text("\n".join(texts))
    if system and not kind.startswith("baichuan2"):
        first = next((index for index, (role, _) in enumerate(turns) if role == "user"), None)
        if first is None:
            turns = [("user", system), *turns]
        else:
            turns[first] = ("user", f"{system}\n\n{turns[first][1]}")
        system = None
    ids = encode.text(system) if system else []
    for role, content in turns:
        ids += [encode.control(role), *encode.text(content)]
    return ids if turns[-1][0] == "assistant" else [*ids, encode.control("assistant")]
