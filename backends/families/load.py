"""Loads a checkpoint as plain transformers objects, with the small classes of our own where there is no native one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backends.errors import ModelUnusable
from backends.families.prompts import NOTE
from backends.families.recognise import MARK, Checkpoint, recognise
from backends.families.sources import read_json
from backends.families.words import Vocabulary


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of a model folder, original, converted or native. Raises ModelUnusable."""
    checkpoint = recognise(folder)
    if not checkpoint.native:
        from backends.families.conversions import conversion_of

        plan = conversion_of(checkpoint)
        return wrapped(checkpoint.kind, plan.vocabulary(), plan.chat_template, plan.model_max_length)
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    cls = PreTrainedTokenizerFast if (folder / MARK).is_file() else AutoTokenizer
    try:
        tokenizer = cls.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError) as error:
        raise ModelUnusable(
            f"The tokenizer files of {folder.name} are missing or damaged: download the model again."
        ) from error
    if checkpoint.kind == "llama2":
        _mark_spaces_as_sentencepiece_does(tokenizer.backend_tokenizer)
    return tokenizer


def _mark_spaces_as_sentencepiece_does(backend: Any) -> None:
    # What transformers sets up for Llama loses one space of a text that starts with spaces.
    from tokenizers import normalizers, pre_tokenizers

    if isinstance(backend.pre_tokenizer, pre_tokenizers.Metaspace):
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        backend.pre_tokenizer = None


def wrapped(kind: str, vocabulary: Vocabulary, chat_template: str, longest: int) -> Any:
    """A transformers tokenizer around a vocabulary, with the note that `prompt_ids` reads."""
    from transformers import PreTrainedTokenizerFast

    note = {"kind": kind, "control": list(vocabulary.control), "roles": dict(vocabulary.roles)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=vocabulary.tokenizer,
        model_max_length=longest,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        **vocabulary.names,
        **{NOTE: note},
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def load_pretrained(path: str | Path, dtype: Any = "auto") -> tuple[Any, Any]:
    """(model, tokenizer) on the CPU in evaluation mode; an original checkpoint must have been converted before.

    `dtype` is a torch dtype, its name, or "auto" for that of the files. Raises ModelUnusable.
    """
    folder = Path(path)
    checkpoint = recognise(folder)
    if not checkpoint.native:
        raise ModelUnusable(
            f"{folder.name} is an original {checkpoint.kind} checkpoint: convert it first "
            f"(python -m backends.families convert {folder.name} NEW_FOLDER)."
        )
    try:
        model = _model_class(checkpoint).from_pretrained(
            str(folder), dtype=dtype, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, ImportError) as error:
        raise ModelUnusable(f"{folder.name} cannot be loaded: {_first_line(error)}") from error
    return model.eval(), load_tokenizer(folder)


def _model_class(checkpoint: Checkpoint) -> Any:
    if checkpoint.architecture == "BaichuanAlibiForCausalLM":
        from backends.families.baichuan_model import BaichuanAlibiForCausalLM

        return BaichuanAlibiForCausalLM
    if checkpoint.architecture == "ChatGLMv1ForCausalLM":
        from backends.families.chatglm_model import ChatGLMv1ForCausalLM

        return ChatGLMv1ForCausalLM
    stretch = read_json(checkpoint.folder / "config.json").get("qwen1_beyond_seq_length") or {}
    if stretch.get("dynamic_ntk") or stretch.get("logn"):
        from backends.families.qwen_model import Qwen1ForCausalLM

        return Qwen1ForCausalLM
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else "its files are damaged; download the model again."
