"""The words the family modules share: what was recognised, how a conversion goes, and reading a conversation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.errors import InvalidRequest, ModelUnusable

if TYPE_CHECKING:
    import tokenizers
    import torch

Tensors = list[tuple[str, "torch.Tensor"]]
Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Recognised:
    """A family's own answer: the exact kind, whether engines read it as it is, and its context length in tokens."""

    kind: str
    native: bool
    context_length: int | None


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer built without remote code. `names` are the roles (bos_token, eos_token, pad_token, unk_token)."""

    tokenizer: tokenizers.Tokenizer
    names: Mapping[str, str]
    control: tuple[str, ...] = ()  # pieces that text may not become, beside the added special tokens
    roles: Mapping[str, str] = field(default_factory=dict)  # family's names for its markers -> token


@dataclass(frozen=True)
class Conversion:
    """How an original checkpoint becomes one of a class that computes the same numbers.

    `rename` gives the new tensors of one original tensor, none for a buffer that is not needed.
    """

    config: Mapping[str, Any]
    rename: Callable[[str, torch.Tensor], Tensors]
    vocabulary: Callable[[], Vocabulary]
    generation: Mapping[str, Any]
    chat_template: str
    model_max_length: int


@dataclass(frozen=True)
class Encoder:
    """Turns text into ids that are never control ids, and knows the ids of the control tokens by their role."""

    text: Callable[[str], list[int]]
    control: Callable[[str], int]


def split_rows(prefix: str, last: str, tensor: torch.Tensor, rows: Sequence[int]) -> Tensors:
    """q_proj, k_proj and v_proj from their fused rows; else one, whose shape is then refused."""
    if tensor.ndim == 0 or tensor.shape[0] != sum(rows):
        return [(f"{prefix}q_proj.{last}", tensor)]
    return [
        (f"{prefix}{which}_proj.{last}", part) for which, part in zip("qkv", tensor.split(list(rows), 0), strict=True)
    ]


def require(config: Mapping[str, Any], folder: Path, *names: str) -> Any:
    """The value of the first key that is there. Raises ModelUnusable that names the key."""
    for name in names:
        if config.get(name) is not None:
            return config[name]
    raise ModelUnusable(f"config.json in {folder.name} lacks {names[0]}: download this file again.")


def number(config: Mapping[str, Any], folder: Path, *names: str) -> int:
    """As `require`, for a positive whole number."""
    value = require(config, folder, *names)
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ModelUnusable(f"config.json in {folder.name} has a {names[0]} that is no positive whole number.")
    return value


def refuse_quantised(config: Mapping[str, Any], folder: Path) -> None:
    """Raises ModelUnusable for weights in a quantised form, whose tensors mean something else under the same names."""
    how = config.get("quantization_config")
    if how or config.get("quantization_bit"):
        name = str(how.get("quant_method", "")).upper() if isinstance(how, dict) else ""
        raise ModelUnusable(
            f"{folder.name} is quantised{f' with {name}' if name else ''}, and this class of model is converted from "
            "its unquantised weights: use the original model."
        )


def split_system(messages: Messages) -> tuple[str | None, list[tuple[str, str]]]:
    """The system text (None when there is none; several are joined) and the turns (role, content).

    Raises InvalidRequest when there is no turn, or a role is not one of system, user and assistant.
    """
    for message in messages:
        if message["role"] not in ("system", "user", "assistant"):
            raise InvalidRequest(f"There is no role {message['role']!r}: use system, user or assistant.")
    system = [message["content"] for message in messages if message["role"] == "system"]
    turns = [(message["role"], message["content"]) for message in messages if message["role"] != "system"]
    if not turns:
        raise InvalidRequest("There is nothing to answer: send at least one message of the user.")
    return "\n\n".join(system) if system else None, turns


def in_pairs(turns: Sequence[tuple[str, str]]) -> tuple[list[tuple[str, str]], str]:
    """Finished rounds (question, answer) and the open question, for formats that know only rounds.

    Messages of one role in a row are joined by an empty line; an answer without a question gets an empty one.
    """
    joined: list[tuple[str, str]] = []
    for role, content in turns:
        if joined and joined[-1][0] == role:
            joined[-1] = (role, f"{joined[-1][1]}\n\n{content}")
        else:
            joined.append((role, content))
    if joined[0][0] == "assistant":
        joined.insert(0, ("user", ""))
    if joined[-1][0] == "assistant":
        joined.append(("user", ""))
    texts = [content for _, content in joined]
    return list(zip(texts[0:-1:2], texts[1:-1:2], strict=True)), texts[-1]


def before_first(system: str | None, pairs: Sequence[tuple[str, str]], question: str) -> tuple[Any, str]:
    """The same conversation with the system text in front of the first question, for families without that role."""
    if not system:
        return list(pairs), question
    if pairs:
        return [(f"{system}\n\n{pairs[0][0]}", pairs[0][1]), *pairs[1:]], question
    return [], f"{system}\n\n{question}"
