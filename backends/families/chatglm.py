"""ChatGLM. ChatGLM2, ChatGLM3 and GLM-4 compute what Glm computes; ChatGLM-6B has a small class of its own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.errors import ModelUnusable
from backends.families.sources import read_json, read_sentencepiece, tokenizer_file
from backends.families.words import (
    Conversion,
    Encoder,
    Messages,
    Recognised,
    Tensors,
    Vocabulary,
    before_first,
    in_pairs,
    number,
    refuse_quantised,
    split_rows,
    split_system,
)

if TYPE_CHECKING:
    import torch

_GLM4_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_ROLES = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>", "observation": "<|observation|>"}
_PREFIXES = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")
_BLANKS = tuple((" " * count, f"<|blank_{count}|>") for count in range(80, 1, -1))
_ROUNDS = (
    "{{% set held = namespace(system='', round={first}) %}}{prefix}{{% for message in messages %}}"
    "{{% if message['role'] == 'system' %}}{{% set held.system = message['content'] + '\\n\\n' %}}"
    "{{% elif message['role'] == 'user' %}}"
    "{{% if messages | rejectattr('role', 'equalto', 'system') | list | length > {bare} %}}"
    "[Round {{{{ held.round }}}}]{gap}问：{{{{ held.system }}}}{{{{ message['content'] }}}}{gap}答："
    "{{% else %}}{{{{ held.system }}}}{{{{ message['content'] }}}}{{% endif %}}"
    "{{% set held.system = '' %}}{{% set held.round = held.round + 1 %}}"
    "{{% else %}}{{{{ message['content'] }}}}{gap}{{% endif %}}{{% endfor %}}{suffix}"
)
_TEMPLATE_3 = (
    "[gMASK]sop{% for message in messages %}<|{{ message['role'] }}|>\n {{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_TEMPLATE_4 = (
    "[gMASK]<sop>{% for message in messages %}{% if message['content'] %}"
    "<|{{ message['role'] }}|>\n{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def recognise(folder: Path, config: Mapping[str, Any], wanted: str) -> Recognised:
    """ChatGLM 1 by its keys, GLM-4 by its tokenizer; ChatGLM 2 and 3 differ by nothing but the name they carry."""
    if config.get("model_type") != "chatglm":
        return Recognised(str(config["model_type"]), True, config.get("max_position_embeddings"))
    refuse_quantised(config, folder)
    tokenizer = read_json(folder / "tokenizer_config.json", optional=True)
    if config.get("position_encoding_2d") is not None or config.get("inner_hidden_size") is not None:
        _refuse_first_release(folder, config, tokenizer)
        return Recognised("chatglm1", False, number(config, folder, "max_sequence_length"))
    kind = wanted or _later(folder, config, tokenizer)
    return Recognised(kind, False, number(config, folder, "seq_length"))


def _refuse_first_release(folder: Path, config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> None:
    start = config.get("bos_token_id")
    shifted = tokenizer.get("num_image_tokens") or 0
    if not shifted and (folder / "ice_text.model").is_file():
        shifted = read_sentencepiece(folder / "ice_text.model").index("<sop>") != start
    if shifted:
        raise ModelUnusable(
            f"{folder.name} is a first release of ChatGLM-6B, whose token ids are shifted by image tokens: "
            "use the current files of the model."
        )


def _later(folder: Path, config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> str:
    auto_map = str(tokenizer.get("auto_map", ""))
    named = f"{tokenizer.get('tokenizer_class', '')} {auto_map}"
    if "ChatGLM4Tokenizer" in named or "<|endoftext|>" in str(tokenizer.get("added_tokens_decoder", "")):
        return "glm4"
    names = [config.get("_name_or_path"), tokenizer.get("name_or_path"), folder.name, folder.resolve().parent.name]
    # A hub's cache keeps the model's name two folders up: models--THUDM--chatglm3-6b/snapshots/<commit>.
    names.append(folder.resolve().parent.parent.name)
    for name in (str(name).lower() for name in names):
        if "chatglm3" in name or "chatglm2" in name:
            return "chatglm3" if "chatglm3" in name else "chatglm2"
    raise ModelUnusable(
        f"{folder.name} may be ChatGLM2 or ChatGLM3, whose files are alike: name the one it is as the model type, "
        "chatglm2 or chatglm3."
    )


def conversion(folder: Path, config: Mapping[str, Any], kind: str) -> Conversion:
    """As GlmForCausalLM, or ChatGLMv1ForCausalLM for ChatGLM-6B."""
    own = read_json(folder / "generation_config.json", optional=True)
    if kind == "chatglm1":
        return _first(folder, config)
    vocabulary = _glm4_vocabulary(folder) if kind == "glm4" else _sentencepiece_vocabulary(folder, kind)
    heads, width = number(config, folder, "num_attention_heads"), number(config, folder, "kv_channels")
    groups = number(config, folder, "multi_query_group_num") if config.get("multi_query_attention", True) else heads
    stop = _stop_ids(config, own, vocabulary, kind)
    pad = config.get("pad_token_id", 0)
    length = number(config, folder, "seq_length")
    mapped = {
        "architectures": ["GlmForCausalLM"],
        "model_type": "glm",
        "vocab_size": number(config, folder, "padded_vocab_size"),
        "hidden_size": number(config, folder, "hidden_size"),
        "intermediate_size": number(config, folder, "ffn_hidden_size"),
        "num_hidden_layers": number(config, folder, "num_layers", "num_hidden_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "head_dim": width,
        "hidden_act": "silu",
        "rms_norm_eps": config.get("layernorm_epsilon", 1e-5),
        "max_position_embeddings": length,
        "attention_bias": bool(config.get("add_qkv_bias", True)),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0 * (config.get("rope_ratio") or 1),
            "partial_rotary_factor": 0.5,
        },
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
        "bos_token_id": None,
        "eos_token_id": stop,
        "pad_token_id": pad,
    }
    sampling = {"do_sample": True, "temperature": 0.8, "top_p": 0.8, "eos_token_id": stop, "pad_token_id": pad}
    rows = (heads * width, groups * width, groups * width)
    if kind == "chatglm2":
        template = _ROUNDS.format(first=1, bare=0, gap="\n\n", prefix="[gMASK]sop", suffix="")
    else:
        template = _TEMPLATE_4 if kind == "glm4" else _TEMPLATE_3
    return Conversion(mapped, partial(_rename, rows), lambda: vocabulary, sampling, template, length)


def _stop_ids(config: Mapping[str, Any], own: Mapping[str, Any], vocabulary: Vocabulary, kind: str) -> list[int] | int:
    named = own.get("eos_token_id", config.get("eos_token_id"))
    ids = list(named) if isinstance(named, list) else [2 if named is None else int(named)]
    if kind == "chatglm3":
        ids += [vocabulary.tokenizer.token_to_id(_ROLES[role]) for role in ("user", "observation")]
    return ids if len(ids) > 1 else ids[0]


def _rename(rows: tuple[int, int, int], name: str, tensor: torch.Tensor) -> Tensors:
    if name.endswith((".inv_freq", ".masked_bias")):
        return []
    fixed = {
        "transformer.embedding.word_embeddings.weight": "model.embed_tokens.weight",
        "transformer.encoder.final_layernorm.weight": "model.norm.weight",
        "transformer.output_layer.weight": "lm_head.weight",
    }
    if name in fixed:
        return [(fixed[name], tensor)]
    name = name.replace("transformer.encoder.layers.", "model.layers.")
    if ".self_attention.query_key_value." in name:
        to, _, last = name.partition("self_attention.query_key_value.")
        return split_rows(f"{to}self_attn.", last, tensor, rows)
    name = name.replace("self_attention.dense.", "self_attn.o_proj.")
    name = name.replace("mlp.dense_h_to_4h.", "mlp.gate_up_proj.").replace("mlp.dense_4h_to_h.", "mlp.down_proj.")
    return [(name, tensor)]


def _sentencepiece_vocabulary(folder: Path, kind: str) -> Vocabulary:
    from backends.families.fast_tokenizers import from_pieces, wrap

    model = read_sentencepiece(tokenizer_file(folder, "tokenizer.model"))
    unknown, bos, eos = (model.piece(index) for index in range(3))
    behind = [*_PREFIXES, *(_ROLES.values() if kind == "chatglm3" else ())]
    built = from_pieces(model, [unknown, bos, eos], behind)
    wrap(built, ["[gMASK]", "sop"], [])
    names = {"bos_token": bos, "eos_token": eos, "unk_token": unknown, "pad_token": unknown}
    return Vocabulary(built, names, roles={"mask": "[gMASK]", "sop": "sop", **_ROLES})


def _glm4_vocabulary(folder: Path) -> Vocabulary:
    from backends.families.fast_tokenizers import from_ranks, read_ranks, wrap

    config = read_json(folder / "tokenizer_config.json")
    ranks = read_ranks(tokenizer_file(folder, "tokenizer.model"))
    added = config.get("added_tokens_decoder") or {}
    try:
        special = [(int(index), str(entry["content"])) for index, entry in added.items()]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelUnusable(f"tokenizer_config.json in {folder.name} is damaged: download this file again.") from error
    special.sort()
    expected = list(range(len(ranks), len(ranks) + len(special)))
    names = [name for _, name in special]
    if [index for index, _ in special] != expected or not {"[gMASK]", "<sop>", *_ROLES.values()} <= set(names):
        raise ModelUnusable(
            f"tokenizer_config.json and tokenizer.model in {folder.name} do not fit together: download both again."
        )
    built = from_ranks(ranks, _GLM4_PATTERN, names, nfc=False)
    wrap(built, ["[gMASK]", "<sop>"], [])
    end = "<|endoftext|>"
    roles = {"mask": "[gMASK]", "sop": "<sop>", **_ROLES}
    return Vocabulary(built, {"eos_token": end, "pad_token": end}, roles=roles)


def _first(folder: Path, config: Mapping[str, Any]) -> Conversion:
    mapped = {
        "architectures": ["ChatGLMv1ForCausalLM"],
        "model_type": "chatglm_v1",
        "vocab_size": number(config, folder, "vocab_size"),
        "hidden_size": number(config, folder, "hidden_size"),
        "intermediate_size": number(config, folder, "inner_hidden_size"),
        "num_hidden_layers": number(config, folder, "num_layers"),
        "num_attention_heads": number(config, folder, "num_attention_heads"),
        "layer_norm_eps": config.get("layernorm_epsilon", 1e-5),
        "max_position_embeddings": number(config, folder, "max_sequence_length"),
        "tie_word_embeddings": True,
        "bos_token_id": number(config, folder, "bos_token_id"),
        "eos_token_id": number(config, folder, "eos_token_id"),
        "mask_token_id": number(config, folder, "mask_token_id"),
        "gmask_token_id": number(config, folder, "gmask_token_id"),
        "pad_token_id": number(config, folder, "pad_token_id"),
    }
    ends = {name: mapped[name] for name in ("eos_token_id", "pad_token_id")}
    generation = {"do_sample": True, "temperature": 0.95, "top_p": 0.7, **ends}
    template = _ROUNDS.format(first=0, bare=1, gap="\n", prefix="", suffix="[gMASK]<sop>")
    length = number(config, folder, "max_sequence_length")
    return Conversion(mapped, _rename_first, lambda: _first_vocabulary(folder), generation, template, length)


def _rename_first(name: str, tensor: torch.Tensor) -> Tensors:
    # The output layer is the embedding: the original ties them when it loads.
    return [] if name.endswith(".inv_freq") or name == "lm_head.weight" else [(name, tensor)]


def _first_vocabulary(folder: Path) -> Vocabulary:
    from backends.families.fast_tokenizers import from_pieces, wrap

    model = read_sentencepiece(tokenizer_file(folder, "ice_text.model"))
    present = {piece for piece, _, _ in model.pieces}
    spelling = [("\n", "<n>"), ("\t", "<|tab|>"), *(pair for pair in _BLANKS if pair[1] in present)]
    control = [name for name in ("[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<pad>") if name in present]
    if "[gMASK]" not in control or "<sop>" not in control or "<eop>" not in control:
        raise ModelUnusable(f"ice_text.model in {folder.name} is not that of ChatGLM-6B: download this file again.")
    built = from_pieces(model, [model.piece(0), model.piece(1), model.piece(2), *control], spelling=spelling)
    wrap(built, [], ["[gMASK]", "<sop>"])
    names = {"bos_token": "<sop>", "eos_token": "<eop>", "unk_token": model.piece(0), "pad_token": "<pad>"}
    roles = {"mask": "[gMASK]", "sop": "<sop>"}
    return Vocabulary(built, {k: v for k, v in names.items() if v in present}, tuple(control), roles)


def chat_ids(kind: str, messages: Messages, encode: Encoder) -> list[int]:
    """The ids of `build_chat_input` and its predecessors; ChatGLM 1 and 2 know only rounds and no system role."""
    system, turns = split_system(messages)
    start = [encode.control("mask"), encode.control("sop")]
    if kind in ("chatglm1", "chatglm2"):
        pairs, question = before_first(system, *in_pairs(turns))
        if kind == "chatglm1":
            return encode.text(_first_rounds(pairs, question)) + start
        rounds = "".join(f"[Round {n}]\n\n问：{q}\n\n答：{a}\n\n" for n, (q, a) in enumerate(pairs, 1))
        return start + encode.text(f"{rounds}[Round {len(pairs) + 1}]\n\n问：{question}\n\n答：")
    ids = start
    for role, content in ([("system", system)] if system is not None else []) + turns:
        if content or kind == "chatglm3":  # GLM-4 leaves out what is empty
            ids = [*ids, encode.control(role), *encode.text("\n"), *encode.text(content)]
    return [*ids, encode.control("assistant")]


def _first_rounds(pairs: list[tuple[str, str]], question: str) -> str:
    if not pairs:
        return question
    rounds = "".join(f"[Round {n}]\n问：{q}\n答：{a}\n" for n, (q, a) in enumerate(pairs))
    return f"{rounds}[Round {len(pairs)}]\n问：{question}\n答："
