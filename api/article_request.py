"""Reads the body of the article's call into a plain value. Knows the wire and nothing of models or documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from api.fields import choice, decoded, flag, integer, load, number, text_in, texts
from backends.errors import InvalidRequest
from backends.types import SamplingParams
from rag.types import ANSWER_MODES, AnswerMode

TEXT_TOKENS = 512  # max_new_tokens without a template where none is given: such a text may never come to an end


@dataclass(frozen=True)
class ArticleCall:
    """One call. `grounded` asks for an answer from documents; `knowledge_base` "" leaves the choice to the service.

    `mode` says what answers then: "both", "retrieve" (the passages alone) or "model". `bare` means that the answer is
    the text alone: the call was text itself, or of protocol 1.0 (`input_ids`).
    """

    prompt: str
    history: tuple[tuple[str, str], ...] = ()
    system_prompt: str = ""
    params: SamplingParams = field(default_factory=SamplingParams)
    grounded: bool = False
    knowledge_base: str = ""
    mode: AnswerMode = "both"
    model: str = ""
    stream: bool = False
    bare: bool = False


def parse(body: bytes, content_type: str) -> ArticleCall:
    """Read a text or JSON body. The body decides, not the header: plain `curl -d` sends JSON as a form.

    Raises InvalidRequest with the field, or with line and column, of what is wrong.
    """
    text = decoded(body)
    if not text.strip():
        raise InvalidRequest("The body is empty: send the prompt as text, or as JSON with a field 'prompt'.")
    declared = content_type.partition(";")[0].strip().lower()
    if declared == "application/json" or (declared != "text/plain" and is_json(text)):
        return from_json(load_call(text))
    return ArticleCall(prompt=text, bare=True)


def is_json(text: str) -> bool:
    """Whether a text of no declared type is meant as a JSON object."""
    return text.lstrip().startswith("{")


def load_call(text: str) -> Mapping[str, Any]:
    """The fields of a JSON body. Raises InvalidRequest with line and column of what is wrong."""
    return load(text, "a field 'prompt'")


def from_json(body: Mapping[str, Any], *, streamed: bool = False, needs_prompt: bool = True) -> ArticleCall:
    """Read the fields; `streamed` is what a missing use_stream_chat means. Raises InvalidRequest with the field."""
    bare = "prompt" not in body and "input_ids" in body
    prompt = text_in(body, "input_ids" if bare else "prompt")
    if needs_prompt and not prompt.strip():
        raise InvalidRequest("prompt is missing or empty: it is the text to answer.", "prompt")
    flag(body, "use_cache")  # checked, and otherwise without effect: the engines always keep their cache
    knowledge_base = text_in(body, "knowledge_base")
    grounded, stream = flag(body, "langchain"), flag(body, "use_stream_chat")
    call = ArticleCall(
        prompt=prompt,
        history=_history(body.get("history")),
        system_prompt=text_in(body, "system_prompt"),
        params=SamplingParams(
            max_new_tokens=integer(body, "max_new_tokens"),
            temperature=number(body, "temperature"),
            top_k=integer(body, "top_k"),
            top_p=number(body, "top_p"),
            repetition_penalty=number(body, "repetition_penalty"),
            do_sample=flag(body, "do_sample"),
            seed=integer(body, "seed"),
            stop=texts(body, "stop") + texts(body, "stop_sequences"),
        ),
        grounded=bool(knowledge_base) if grounded is None else grounded,
        knowledge_base=knowledge_base,
        mode=choice(body, "mode", ANSWER_MODES),
        model=text_in(body, "model"),
        stream=streamed if stream is None else stream,
        bare=bare,
    )
    return _without_template(call) if flag(body, "no_template") else call


def _without_template(call: ArticleCall) -> ArticleCall:
    """The prompt is all that the model reads, and it goes on from there. Raises InvalidRequest with the field of what
    only a chat template has a place for."""
    for name, given in (("system_prompt", call.system_prompt), ("history", call.history), ("langchain", call.grounded)):
        if given:
            raise InvalidRequest(f"{name} needs the model's chat template: leave out {name}, or no_template.", name)
    most = call.params.max_new_tokens or TEXT_TOKENS
    return replace(call, params=replace(call.params, raw=True, max_new_tokens=most))


def _history(value: Any) -> tuple[tuple[str, str], ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise InvalidRequest("history must be a list of [question, answer] pairs.", "history")
    for index, turn in enumerate(value):
        if not isinstance(turn, list) or len(turn) != 2 or not all(isinstance(part, str) for part in turn):
            raise InvalidRequest(f"history[{index}] must be a pair of texts: [question, answer].", "history")
    return tuple((question, answer) for question, answer in value)
