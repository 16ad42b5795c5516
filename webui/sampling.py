"""The folded panel of system prompt and sampling parameters, and how its fields become SamplingParams."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import gradio as gr

from backends.errors import InvalidRequest
from backends.types import SamplingParams
from webui.texts import Texts

# Text fields and not number fields: those turn an empty field into 0.
NUMBERS = ("max_new_tokens", "temperature", "top_k", "top_p", "repetition_penalty", "seed")


def build_sampling(texts: Texts) -> list[gr.components.Component]:
    """The panel; returns its fields in the order that `read` takes their values."""
    with gr.Accordion(texts.sampling, open=False, elem_id="sampling"):
        system_prompt = gr.Textbox(
            label=texts.system_prompt, placeholder=texts.system_prompt_placeholder, lines=2, max_lines=8,
            max_length=20_000, elem_id="system-prompt",
        )  # fmt: skip
        gr.Markdown(texts.sampling_info, elem_classes="q-quiet")
        with gr.Row(elem_classes="q-grid"):
            numbers = [
                gr.Textbox(
                    label=getattr(texts, name),
                    placeholder=texts.default,
                    max_lines=1,
                    max_length=30,
                    min_width=110,
                    elem_id=name,
                )
                for name in NUMBERS
            ]
        greedy = gr.Checkbox(label=texts.greedy)
        stop = gr.Textbox(label=texts.stop_texts, lines=1, max_lines=4, max_length=1_000)
    return [system_prompt, *numbers, greedy, stop]


def read(values: Sequence[Any], texts: Texts) -> SamplingParams:
    """The parameters of the fields after the system prompt; an empty field is None, the model's own default.

    Whoever sets a temperature, top-k or top-p wants sampling, also from a model that is greedy by itself.
    Raises InvalidRequest that names the field.
    """
    given = {name: _number(value, getattr(texts, name), texts) for name, value in zip(NUMBERS, values, strict=False)}
    greedy, stop = values[len(NUMBERS) :]
    sampled = any(given[name] is not None for name in ("temperature", "top_k", "top_p"))
    return SamplingParams(
        max_new_tokens=_whole(given["max_new_tokens"]),
        temperature=given["temperature"],
        top_k=_whole(given["top_k"]),
        top_p=given["top_p"],
        repetition_penalty=given["repetition_penalty"],
        do_sample=False if greedy else (True if sampled else None),
        seed=_whole(given["seed"]),
        stop=tuple(line for line in (stop or "").splitlines() if line),
    )


def _number(text: str | None, label: str, texts: Texts) -> float | None:
    text = (text or "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InvalidRequest(texts.not_a_number.format(field=label))
    return value


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
