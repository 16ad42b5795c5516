"""Plain transformers objects from a checkpoint folder: no remote code, no pickle executed, no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backends.errors import ModelUnusable


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of the checkpoint. Raises ModelUnusable when it cannot be read."""
    from transformers import AutoTokenizer

    # The library raises whatever its parsers raise: all of it means the same to the user.
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise ModelUnusable(
            f"The tokenizer of {folder.name} cannot be read ({_one_line(error)}); download the model again."
        ) from error


def load_pretrained(folder: Path, dtype: Any = "auto", device: str = "cpu") -> tuple[Any, Any]:
    """(model in evaluation mode on `device`, tokenizer). `dtype` is a torch dtype, or "auto" for the checkpoint's own.

    Raises ModelUnusable when the weights or the tokenizer cannot be read or do not fit the config.
    """
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(folder)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, trust_remote_code=False, local_files_only=True, output_loading_info=True
        )
    except MemoryError:
        raise
    except Exception as error:
        raise ModelUnusable(f"The model in {folder.name} cannot be loaded: {_one_line(error)}") from error
    if missing := sorted(report["missing_keys"]):
        raise ModelUnusable(
            f"The weights in {folder.name} are not complete: {missing[0]} is missing"
            + (f", and {len(missing) - 1} more tensors" if len(missing) > 1 else "")
            + "; download the model again."
        )
    return model.eval().to(device), tokenizer


def _one_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
