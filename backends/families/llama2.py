"""Llama. All are native; Llama 2 has no chat template of its authors' exact ids, so its prompt is built here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backends.families.sources import read_json
from backends.families.words import Encoder, Messages, Recognised, in_pairs, split_system


def recognise(folder: Path, config: Mapping[str, Any], wanted: str) -> Recognised:
    """Llama 2 when the folder has its prompt format, or none and a sentencepiece vocabulary; else another."""
    kind = wanted or ("llama2" if _prompts_as_llama2(folder) else "llama3" if _is_llama3(folder) else "llama")
    return Recognised(kind, True, config.get("max_position_embeddings"))


def _template(folder: Path) -> str:
    own = folder / "chat_template.jinja"
    if own.is_file():
        return own.read_text(encoding="utf-8", errors="replace")
    template = read_json(folder / "tokenizer_config.json", optional=True).get("chat_template")
    return str(template or "")


def _prompts_as_llama2(folder: Path) -> bool:
    template = _template(folder)
    if template:
        return "[INST]" in template and "<<SYS>>" in template
    # Without a template it is told by its special tokens: those of Llama 3 have other names.
    named = read_json(folder / "tokenizer_config.json", optional=True).get("tokenizer_class")
    return named in ("LlamaTokenizer", "LlamaTokenizerFast") and not _is_llama3(folder)


def _is_llama3(folder: Path) -> bool:
    config = read_json(folder / "tokenizer_config.json", optional=True)
    return "<|start_header_id|>" in str(config.get("added_tokens_decoder", "")) or "<|start_header_id|>" in _template(
        folder
    )


def chat_ids(kind: str, messages: Messages, encode: Encoder) -> list[int]:
    """The ids of `chat_completion` of Llama 2: every round between bos and eos, each encoded on its own."""
    system, turns = split_system(messages)
    pairs, question = in_pairs(turns)
    texts = [text for pair in pairs for text in pair] + [question]
    if system is not None:
        texts[0] = f"<<SYS>>\n{system}\n<</SYS>>\n\n{texts[0]}"
    ids: list[int] = []
    for user, answer in zip(texts[0:-1:2], texts[1:-1:2], strict=True):
        round_text = f"[INST] {user.strip()} [/INST] {answer.strip()} "
        ids += [encode.control("bos"), *encode.text(round_text), encode.control("eos")]
    return [*ids, encode.control("bos"), *encode.text(f"[INST] {texts[-1].strip()} [/INST]")]
