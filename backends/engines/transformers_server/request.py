"""One request as the server takes it: read, checked, and completed with the model's own defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backends.engines.transformers_server.sampling import Sampling
from backends.errors import InvalidRequest
from backends.types import SamplingParams

_ROLES = ("system", "user", "assistant")
# Below this scores grow beyond what a float holds, and there is one choice left anyway.
_COLDEST = 1e-3


# What would change the answer and is not known here: left out in silence, the answer would not be what was asked for.
_UNKNOWN = (
    "tools", "functions", "logprobs", "top_logprobs", "prompt_logprobs", "logit_bias", "presence_penalty",
    "frequency_penalty", "min_p", "min_tokens", "response_format", "structured_outputs", "echo", "suffix",
)  # fmt: skip
# As OpenAI's and vLLM's /v1/completions, where a request says nothing.
_COMPLETION_TOKENS = 16


@dataclass(frozen=True)
class Asked:
    """`prompt` is a conversation, or a text to go on from. `most` new tokens at most (None: as many as the model's
    defaults or its context allow). `think`: whether the model thinks first (None: as its template will)."""

    prompt: tuple[dict[str, str], ...] | str
    sampling: Sampling
    most: int | None
    stop: tuple[str, ...]
    stream: bool
    think: bool | None = None


def read_chat(body: object, defaults: Any) -> Asked:
    """The request in a parsed JSON body of /v1/chat/completions; `defaults` is the model's GenerationConfig.

    Raises InvalidRequest that names the field.
    """
    body = _object(body)
    return _asked(body, _messages(body), defaults, getattr(defaults, "max_new_tokens", None))


def read_completion(body: object, defaults: Any) -> Asked:
    """The same for /v1/completions."""
    body = _object(body)
    prompt = body.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise InvalidRequest("prompt must be a text that is not empty.")
    return _asked(body, prompt, defaults, _COMPLETION_TOKENS)


def _object(body: object) -> Mapping[str, Any]:
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.")
    return body


def _asked(body: Mapping[str, Any], prompt: tuple[dict[str, str], ...] | str, defaults: Any, most: int | None) -> Asked:
    for name in _UNKNOWN:
        if body.get(name) and body[name] != {"type": "text"}:  # a response_format that asks for nothing
            raise InvalidRequest(f"The transformers engine does not know {name}: leave it out, or use vLLM.")
    asked = SamplingParams(
        max_new_tokens=_number(body, "max_tokens" if "max_tokens" in body else "max_completion_tokens", int),
        temperature=_number(body, "temperature", float),
        top_k=_number(body, "top_k", int),
        top_p=_number(body, "top_p", float),
        repetition_penalty=_number(body, "repetition_penalty", float),
        seed=_number(body, "seed", int),
        do_sample=_flag(body, "do_sample"),
        stop=_stop(body),
    )
    return Asked(
        prompt, _decided(asked, defaults), asked.max_new_tokens or most, asked.stop, body.get("stream") is True,
        _thinks(body),
    )  # fmt: skip


def _decided(asked: SamplingParams, defaults: Any) -> Sampling:
    """A temperature of (nearly) 0 is greedy; asking for any other way to sample is asking to sample.

    A model's own penalty is part of how it samples: who asks for temperature 0 gets it only by asking for it too.
    """

    def first(name: str, neutral: float) -> float:
        for source in (asked, defaults):
            if (value := getattr(source, name, None)) is not None:
                return float(value)
        return neutral

    temperature = first("temperature", 1.0)
    wants = asked.do_sample
    if wants is None:
        told = any(value is not None for value in (asked.temperature, asked.top_k, asked.top_p))
        wants = told or bool(getattr(defaults, "do_sample", False))
    cold = asked.temperature is not None and asked.temperature < _COLDEST and asked.repetition_penalty is None
    return Sampling(
        do_sample=temperature >= _COLDEST and wants,
        temperature=temperature,
        top_k=int(first("top_k", 0)),
        top_p=first("top_p", 1.0),
        repetition_penalty=1.0 if cold else first("repetition_penalty", 1.0),
        seed=asked.seed,
    )


def _messages(body: Mapping[str, Any]) -> tuple[dict[str, str], ...]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest('The field "messages" must be a list with at least one message.')
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise InvalidRequest(f"Each message needs a role: {', '.join(_ROLES)}.")
        if not isinstance(message.get("content"), str):
            raise InvalidRequest("Each message needs a content that is a text.")
    return tuple({"role": message["role"], "content": message["content"]} for message in messages)


def _number(body: Mapping[str, Any], name: str, kind: type) -> Any:
    value = body.get(name)
    if value is None:
        return None
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not isinstance(value, int | float) or (kind is int and not whole):
        raise InvalidRequest(f"{name} must be a number; it was {value!r:.50}.")
    return kind(value)


def _flag(body: Mapping[str, Any], name: str) -> bool | None:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidRequest(f"{name} must be true or false; it was {value!r:.50}.")
    return value


def _thinks(body: Mapping[str, Any]) -> bool | None:
    """As vLLM takes it: chat_template_kwargs of {"enable_thinking": false}."""
    options = body.get("chat_template_kwargs") or {}
    if not isinstance(options, dict) or set(options) - {"enable_thinking"}:
        raise InvalidRequest(
            'The transformers engine knows one of chat_template_kwargs, {"enable_thinking": true or false}: leave out '
            "the others, or use vLLM."
        )
    return _flag(options, "enable_thinking")


def _stop(body: Mapping[str, Any]) -> tuple[str, ...]:
    value = body.get("stop")
    texts = [value] if isinstance(value, str) else value or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InvalidRequest("stop must be a text or a list of texts.")
    return tuple(texts)
