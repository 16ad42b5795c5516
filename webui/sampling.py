"""The folded panel of system prompt and sampling parameters, and how its fields become SamplingParams."""

from __future__ import annotations

from typing import Any

import gradio as gr

from backends.errors import InvalidRequest
from backends.types import SamplingParams
from webui.texts import Texts


def build_sampling(texts: Texts) -> list[gr.components.Component]:
    """The panel; returns its fields in the order that `read` takes their values."""
    with gr.Accordion(texts.sampling, open=False, elem_id="sampling"):
        system_prompt = gr.Textbox(
            label=texts.system_prompt, placeholder=texts.system_prompt_placeholder, lines=2, max_lines=8,
            max_length=20_000, elem_id="system-prompt",
        )  # fmt: skip
        gr.Markdown(texts.sampling_info, elem_classes="q-quiet")
        with gr.Row(elem_classes="q-grid"):
            max_new_tokens = _number(texts.max_new_tokens, texts, precision=0)
            temperature = _number(texts.temperature, texts, step=0.1)
            top_k = _number(texts.top_k, texts, precision=0)
            top_p = _number(texts.top_p, texts, step=0.05)
            repetition_penalty = _number(texts.repetition_penalty, texts, step=0.05)
            seed = _number(texts.seed, texts, precision=0)
        greedy = gr.Checkbox(label=texts.greedy)
        stop = gr.Textbox(label=texts.stop_texts, lines=1, max_lines=4, max_length=1_000)
    return [system_prompt, max_new_tokens, temperature, top_k, top_p, repetition_penalty, seed, greedy, stop]


def _number(label: str, texts: Texts, **kind: Any) -> gr.Number:
    return gr.Number(value=None, label=label, placeholder=texts.default, min_width=110, **kind)


def read(
    max_new_tokens: float | None,
    temperature: float | None,
    top_k: float | None,
    top_p: float | None,
    repetition_penalty: float | None,
    seed: float | None,
    greedy: bool | None,
    stop: str | None,
) -> SamplingParams:
    """The parameters of the fields; an empty field is None, the model's own default.

    Whoever sets a temperature, top-k or top-p wants sampling, also from a model that is greedy by itself.
    Raises InvalidRequest that names the field.
    """
    sampled = any(value is not None for value in (temperature, top_k, top_p))
    return SamplingParams(
        max_new_tokens=_whole("max_new_tokens", max_new_tokens),
        temperature=temperature,
        top_k=_whole("top_k", top_k),
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        do_sample=False if greedy else (True if sampled else None),
        seed=_whole("seed", seed),
        stop=tuple(line for line in (stop or "").splitlines() if line),
    )


def _whole(name: str, value: float | None) -> int | None:
    if value is None:
        return None
    if value != value or value in (float("inf"), float("-inf")):
        raise InvalidRequest(f"{name} must be a whole number.")
    return int(value)
