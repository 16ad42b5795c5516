"""Sentence-transformers models of some kilobytes, made here: real folders that load in the real worker."""

from __future__ import annotations

import json
from pathlib import Path

_WORDS = "the weather report says that it will rain in mountains tomorrow pump warranty roof copper of is how long what"
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,?"


def tiny_model(folder: Path, dimension: int, max_tokens: int = 256) -> Path:
    """A BERT of one layer that knows English letters and some words; its weights are drawn by `dimension`."""
    import torch
    from transformers import BertConfig, BertModel

    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_WORDS.split(), *_LETTERS, *(f"##{c}" for c in _LETTERS)]
    config = BertConfig(
        vocab_size=len(known), hidden_size=dimension, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=2 * dimension, max_position_embeddings=max_tokens,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(dimension)
        BertModel(config).save_pretrained(folder)
    library = "sentence_transformers"
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": f"{library}.base.modules.transformer.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{library}.{library[:-1]}.modules.pooling.Pooling"},
    ]
    (folder / "1_Pooling").mkdir()
    for name, content in {
        "vocab.txt": "\n".join(known),
        "tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "model_max_length": max_tokens},
        "modules.json": modules,
        "sentence_bert_config.json": {"max_seq_length": max_tokens},
        "1_Pooling/config.json": {"embedding_dimension": dimension, "pooling_mode": "mean"},
    }.items():
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder
