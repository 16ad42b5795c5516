"""Reads the bodies of OpenAI's calls into plain values. Knows the wire and nothing of models or documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from api.fields import choice, decoded, flag, integer, load, number, passed_on, text_in, texts
from backends.errors import InvalidRequest
from backends.types import Message, Role, SamplingParams
from rag.types import ANSWER_MODES, AnswerMode, ChatRequest

KNOWLEDGE_BASE = "kb:"  # in front of a knowledge base's name, where it stands for a model
MAX_TEXTS = 2_048  # of one call for embeddings

_ROLES: Mapping[object, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
# What of a message goes on besides role and content. The rest of an answer that a client sends back (its reasoning,
# its sources) is not told to the model again.
_TURN_FIELDS = ("name", "tool_calls", "tool_call_id")
_OURS = frozenset({
    "model", "messages", "prompt", "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature",
    "top_p", "top_k", "repetition_penalty", "do_sample", "seed", "stop", "n", "knowledge_base", "mode",
})  # fmt: skip
# These would steer the engine's process and not the answer: the operator's to set.
_REFUSED = ("chat_template", "prompt_embeds", "mm_processor_kwargs", "media_io_kwargs", "kv_transfer_params")


@dataclass(frozen=True)
class Call:
    """One call. `model` is what the client named, "" for whatever is in service."""

    request: ChatRequest
    model: str
    stream: bool
    include_usage: bool


def chat_call(body: bytes) -> Call:
    """Read the body of `/v1/chat/completions`. Raises InvalidRequest that names the field."""
    asked = json_object(body, "a field 'messages'")
    messages = _messages(asked.get("messages"))
    base = _knowledge_base(asked)
    params, mode = _params(asked), choice(asked, "mode", ANSWER_MODES)
    request = _question(messages, params, base, mode) if base else ChatRequest("", params=params, messages=messages)
    return _call(asked, request)


def text_call(body: bytes) -> Call:
    """Read the body of `/v1/completions`, whose prompt goes to the model without a template. Raises InvalidRequest."""
    asked = json_object(body, "a field 'prompt'")
    prompts = texts(asked, "prompt")
    if len(prompts) != 1 or not prompts[0]:
        raise InvalidRequest("prompt must be one text that is not empty.", "prompt")
    if _knowledge_base(asked):
        raise InvalidRequest(
            "A knowledge base answers questions and completes no text: use /v1/chat/completions.", "model"
        )
    params = replace(_params(asked), raw=True)
    return _call(asked, ChatRequest("", params=params, messages=(Message("user", prompts[0]),)))


def json_object(body: bytes, holding: str) -> Mapping[str, Any]:
    """The JSON object that a body must be; `holding` says what it should hold. Raises InvalidRequest."""
    return load(decoded(body), holding)


def _call(asked: Mapping[str, Any], request: ChatRequest) -> Call:
    if integer(asked, "n") not in (None, 1):
        raise InvalidRequest("n must be 1: one answer is made for each request.", "n")
    options = asked.get("stream_options") or {}
    if not isinstance(options, dict):
        raise InvalidRequest("stream_options must be an object.", "stream_options")
    include_usage = flag(options, "include_usage") or False
    return Call(request, text_in(asked, "model"), flag(asked, "stream") or False, include_usage)


def _params(asked: Mapping[str, Any]) -> SamplingParams:
    most = "max_completion_tokens" if asked.get("max_completion_tokens") is not None else "max_tokens"
    top_k = integer(asked, "top_k")
    for name in _REFUSED:
        if asked.get(name) is not None:
            raise InvalidRequest(f"{name} is not taken from requests.", name)
    try:
        return SamplingParams(
            max_new_tokens=integer(asked, most),
            temperature=number(asked, "temperature"),
            top_k=0 if top_k == -1 else top_k,  # how vLLM's clients switch it off
            top_p=number(asked, "top_p"),
            repetition_penalty=number(asked, "repetition_penalty"),
            do_sample=flag(asked, "do_sample"),
            seed=integer(asked, "seed"),
            stop=texts(asked, "stop"),
            extra=passed_on(asked, asked.keys() - _OURS),
        )
    except InvalidRequest as error:
        if error.field != "max_new_tokens":
            raise
        raise InvalidRequest(error.message.replace("max_new_tokens", most), most) from None


def _knowledge_base(asked: Mapping[str, Any]) -> str:
    """The knowledge base to answer from, "" for none: the field of this name, or a model called kb:NAME."""
    base, model = text_in(asked, "knowledge_base"), text_in(asked, "model")
    if not model.startswith(KNOWLEDGE_BASE):
        return base
    named = model.removeprefix(KNOWLEDGE_BASE)
    if not named:
        raise InvalidRequest("The name of the knowledge base is missing after kb: in model.", "model")
    if base and base != named:
        raise InvalidRequest("knowledge_base and model name two knowledge bases: leave one out.", "knowledge_base")
    return named


def _messages(value: object) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise InvalidRequest("messages must be a list with at least one message.", "messages")
    return tuple(_message(message, f"messages[{index}]") for index, message in enumerate(value))


def _message(value: object, place: str) -> Message:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{place} must be an object with role and content.", place)
    role = value.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise InvalidRequest(f"{place}.role must be one of {', '.join(map(str, _ROLES))}.", f"{place}.role")
    extra = passed_on(value, _TURN_FIELDS)
    content = value.get("content")
    if content is None and "tool_calls" in extra:
        content = ""
    return Message(_ROLES[role], _content(content, f"{place}.content"), extra=extra)


def _content(value: object, place: str) -> str:
    """A text, or a list of text parts put together."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise InvalidRequest(f"{place} must be a text, or a list of parts of type text.", place)
    for index, part in enumerate(value):
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise InvalidRequest(
                f"{place}[{index}] must be a part of type text, with the text in it.", f"{place}[{index}]"
            )
    return "".join(part["text"] for part in value)


def _question(messages: Sequence[Message], params: SamplingParams, base: str, mode: AnswerMode) -> ChatRequest:
    """The last question of a conversation and what was said before it, for an answer from documents."""
    if any(message.role == "tool" or message.extra.get("tool_calls") for message in messages):
        raise InvalidRequest(
            "An answer from documents cannot use tools: leave them out, or the knowledge base.", "tools"
        )
    if messages[-1].role != "user":
        raise InvalidRequest("The last of the messages must be the user's question.", "messages")
    system = "\n\n".join(message.content for message in messages if message.role == "system")
    rest = [message for message in messages if message.role != "system"]
    turns = [(role, "\n\n".join(one.content for one in said)) for role, said in groupby(rest, lambda one: one.role)]
    if turns[0][0] == "assistant":  # a greeting, which answers nothing
        turns = turns[1:]
    spoken = [text for _, text in turns]
    history = tuple(zip(spoken[:-1:2], spoken[1::2], strict=True))
    return ChatRequest(spoken[-1], history, system, params, base, mode=mode)


@dataclass(frozen=True)
class EmbeddingCall:
    """`texts` in order; `base64` asks for each row as base64 of little-endian float32."""

    texts: tuple[str, ...]
    model: str
    base64: bool
    dimensions: int | None


def embedding_call(body: bytes) -> EmbeddingCall:
    """Read the body of `/v1/embeddings`. Raises InvalidRequest that names the field."""
    asked = json_object(body, "a field 'input'")
    value = asked.get("input")
    if isinstance(value, list) and value and not isinstance(value[0], str):
        raise InvalidRequest(
            "input must be texts: token ids of another model mean nothing here (LangChain's client sends texts with "
            "check_embedding_ctx_length=False).",
            "input",
        )
    given = texts(asked, "input")
    if not given or len(given) > MAX_TEXTS or not all(text.strip() for text in given):
        raise InvalidRequest(f"input must be 1 to {MAX_TEXTS} texts, none of them empty.", "input")
    form = choice(asked, "encoding_format", ("float", "base64"))
    return EmbeddingCall(given, text_in(asked, "model"), form == "base64", integer(asked, "dimensions"))
