"""Reads the body of the article's call into a plain value. Knows the wire and nothing of models or documents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from backends.errors import InvalidRequest
from backends.types import SamplingParams


@dataclass(frozen=True)
class ArticleCall:
    """One call. `grounded` asks for an answer from documents; `knowledge_base` "" leaves the choice to the service.

    `bare` means that the answer is the text alone: the call was text itself, or of protocol 1.0 (`input_ids`).
    """

    prompt: str
    history: tuple[tuple[str, str], ...] = ()
    system_prompt: str = ""
    params: SamplingParams = field(default_factory=SamplingParams)
    grounded: bool = False
    knowledge_base: str = ""
    model: str = ""
    stream: bool = False
    bare: bool = False


def parse(body: bytes, content_type: str) -> ArticleCall:
    """Read a text or JSON body. The body decides, not the header: plain `curl -d` sends JSON as a form.

    Raises InvalidRequest with the field, or with line and column, of what is wrong.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body is not UTF-8 text: byte {error.start + 1} cannot be read.") from None
    if not text.strip():
        raise InvalidRequest("The body is empty: send the prompt as text, or as JSON with a field 'prompt'.")
    declared = content_type.partition(";")[0].strip().lower()
    if declared == "application/json" or (declared != "text/plain" and text.lstrip().startswith("{")):
        return _from_json(_load(text))
    return ArticleCall(prompt=text, bare=True)


def _load(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        hint = _hint(text[error.pos : error.pos + 5])
        raise InvalidRequest(
            f"The body is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}{hint}."
        ) from None
    except RecursionError:
        raise InvalidRequest("The body is not usable JSON: it is nested too deeply.") from None
    except ValueError:
        raise InvalidRequest("The body is not usable JSON: a number in it is too long.") from None
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be a JSON object with a field 'prompt'.")
    return value


def _no_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"The body is not valid JSON: {name} is not a JSON number.")


def _hint(at: str) -> str:
    if at.startswith(("True", "False", "None")):
        return " (JSON writes true, false and null)"
    if at.startswith("'"):
        return " (JSON takes double quotes)"
    return ""


def _from_json(body: Mapping[str, Any]) -> ArticleCall:
    bare = "prompt" not in body and "input_ids" in body
    prompt = _text(body, "input_ids" if bare else "prompt")
    if not prompt.strip():
        raise InvalidRequest("prompt is missing or empty: it is the text to answer.")
    if _flag(body, "no_template"):
        raise InvalidRequest("no_template is not offered: every model answers through its own chat template.")
    _flag(body, "use_cache")  # checked, and otherwise without effect: the engines always keep their cache
    knowledge_base = _text(body, "knowledge_base")
    grounded = _flag(body, "langchain")
    return ArticleCall(
        prompt=prompt,
        history=_history(body.get("history")),
        system_prompt=_text(body, "system_prompt"),
        params=SamplingParams(
            max_new_tokens=_integer(body, "max_new_tokens"),
            temperature=_number(body, "temperature"),
            top_k=_integer(body, "top_k"),
            top_p=_number(body, "top_p"),
            repetition_penalty=_number(body, "repetition_penalty"),
            do_sample=_flag(body, "do_sample"),
            seed=_integer(body, "seed"),
            stop=_texts(body, "stop") + _texts(body, "stop_sequences"),
        ),
        grounded=bool(knowledge_base) if grounded is None else grounded,
        knowledge_base=knowledge_base,
        model=_text(body, "model"),
        stream=_flag(body, "use_stream_chat") or False,
        bare=bare,
    )


def _clean(text: str) -> str:
    # JSON can spell half of a surrogate pair, which no encoder takes.
    return text.encode("utf-8", "replace").decode("utf-8")


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} must be a text.")
    return _clean(value)


def _texts(body: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = body.get(name)
    if value is None:
        return ()
    if isinstance(value, str):
        return (_clean(value),)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidRequest(f"{name} must be a list of texts.")
    return tuple(_clean(item) for item in value)


def _flag(body: Mapping[str, Any], name: str) -> bool | None:
    value = body.get(name)
    if value is None or isinstance(value, bool):
        return value
    spelled = {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else None
    if spelled is None:
        raise InvalidRequest(f"{name} must be true or false.")
    return spelled


def _number(body: Mapping[str, Any], name: str) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(f"{name} must be a number.")
    try:
        return float(value)
    except OverflowError:
        raise InvalidRequest(f"{name} is too large a number.") from None


def _integer(body: Mapping[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise InvalidRequest(f"{name} must be a whole number.")
    return int(value)


def _history(value: Any) -> tuple[tuple[str, str], ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise InvalidRequest("history must be a list of [question, answer] pairs.")
    for index, turn in enumerate(value):
        if not isinstance(turn, list) or len(turn) != 2 or not all(isinstance(part, str) for part in turn):
            raise InvalidRequest(f"history[{index}] must be a pair of texts: [question, answer].")
    return tuple((_clean(question), _clean(answer)) for question, answer in value)
