"""Builds fast tokenizers from the vocabulary files of original checkpoints. Knows no family."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.errors import ModelUnusable
from backends.families import sources
from backends.families.decoding import byte_letters
from backends.families.sources import SentencePieceModel

if TYPE_CHECKING:
    import tokenizers

SPACE = "▁"


def read_ranks(path: Path) -> dict[bytes, int]:
    """The tokens of a tiktoken file (lines of base64 and rank). Raises ModelUnusable when it is damaged."""
    try:
        pairs = [line.split() for line in path.read_bytes().splitlines() if line.strip()]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
    except (OSError, ValueError, binascii.Error) as error:
        raise ModelUnusable(f"{path.name} in {path.parent.name} is damaged: download this file again.") from error
    if sorted(ranks.values()) != list(range(len(ranks))) or len(ranks) < 256:
        raise ModelUnusable(f"{path.name} in {path.parent.name} is incomplete: download this file again.")
    return ranks


def from_ranks(ranks: dict[bytes, int], pattern: str, special: Sequence[str], nfc: bool) -> tokenizers.Tokenizer:
    """The fast tokenizer of a tiktoken vocabulary; the special tokens follow the ranks in the order given."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    letters = byte_letters()
    merges = []
    for token, rank in ranks.items():
        splits = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        halves = [(left, right) for left, right in splits if left in ranks and right in ranks]
        merges += [(rank, ranks[left], ranks[right], left, right) for left, right in halves]
    merges.sort()

    def spelled(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    vocabulary = {spelled(token): rank for token, rank in ranks.items()}
    pairs = [(spelled(left), spelled(right)) for *_, left, right in merges]
    built = Tokenizer(models.BPE(vocabulary, pairs, fuse_unk=False, ignore_merges=True))
    if nfc:
        built.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    built.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return built


def from_pieces(
    model: SentencePieceModel,
    special: Sequence[str],
    markers: Sequence[str] = (),
    spelling: Sequence[tuple[str, str]] = (),
) -> tokenizers.Tokenizer:
    """The fast tokenizer of a sentencepiece BPE model, equal to the sentencepiece library id by id.

    `special` and `markers` are tokens behind or within the pieces that only our prompts may use; in an answer the
    original shows markers as text and leaves special ones out. `spelling` are pairs (text, piece) that the original
    code replaces before encoding. Raises ModelUnusable for a kind of model no family here uses.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    if model.model_type != sources.BPE or model.remove_extra_whitespaces:
        raise ModelUnusable("The sentencepiece file is not of the kind this family uses: download the model again.")
    vocabulary = {piece: index for index, (piece, _, _) in enumerate(model.pieces)}
    unknown = next((piece for piece, _, kind in model.pieces if kind == sources.UNKNOWN), None)
    symbols = [piece for piece, _, kind in model.pieces if kind == sources.USER_DEFINED]
    bpe = models.BPE(
        vocabulary,
        _merges(model),
        fuse_unk=True,
        byte_fallback=model.byte_fallback,
        unk_token=unknown,
        # A symbol stands alone after the split below, and no merge leads to it.
        ignore_merges=bool(symbols),
    )
    built = Tokenizer(bpe)
    steps: list[Any] = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    steps += [normalizers.Replace(text, piece) for text, piece in spelling]
    # "Metaspace" would add no mark to a text that starts with a space; sentencepiece does.
    steps += [normalizers.Prepend(SPACE)] if model.add_dummy_prefix else []
    built.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    if symbols:
        longest_first = "|".join(_escape(symbol) for symbol in sorted(symbols, key=len, reverse=True))
        built.pre_tokenizer = pre_tokenizers.Split(Regex(longest_first), behavior="isolated")
    parts: list[Any] = [decoders.Replace(piece, text) for text, piece in spelling]
    parts += [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    built.decoder = decoders.Sequence(parts + ([decoders.Strip(" ", 1, 0)] if model.add_dummy_prefix else []))
    # A bare word such as "sop" is a token only where it stands alone: "sophisticated" stays a word.
    built.add_tokens(
        [
            AddedToken(token, normalized=False, special=token in special, single_word=token.isalpha())
            for token in (*special, *markers)
        ]
    )
    return built


def _merges(model: SentencePieceModel) -> list[tuple[str, str]]:
    """Every way to put a piece together from two, the likeliest piece first, as sentencepiece merges."""
    ids = {piece: index for index, (piece, _, kind) in enumerate(model.pieces) if kind == sources.NORMAL}
    found = []
    for piece, index in ids.items():
        score = model.pieces[index][1]
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in ids and right in ids:
                found.append((-score, ids[left], ids[right], left, right))
    found.sort()
    return [(left, right) for *_, left, right in found]


def _escape(text: str) -> str:
    """`text` for the regular expressions of tokenizers, which take other escapes than Python's."""
    return "".join(f"\\x{{{ord(letter):x}}}" if not letter.isalnum() else letter for letter in text)


def wrap(text_tokenizer: tokenizers.Tokenizer, before: Sequence[str], after: Sequence[str]) -> None:
    """Make encoding put these tokens around a text, as the original tokenizer does by default."""
    from tokenizers import processors

    names = [*before, *after]
    ids = [(name, text_tokenizer.token_to_id(name)) for name in names]
    template = [*before, "$A", *after]
    text_tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
