"""Passing messages on the page: one way to say a sentence, as text and nothing else."""

from __future__ import annotations

import gradio as gr

from backends.errors import QuartetError
from webui.markup import escape
from webui.texts import Texts
from webui.uploads import NOT_UPLOADED


def say(sentence: str, texts: Texts) -> None:
    """Show a sentence for some seconds. The toast takes HTML, so the sentence is escaped."""
    gr.Warning(escape(sentence), title=texts.notice)


def say_error(error: QuartetError, texts: Texts) -> None:
    """Show an error of the tree."""
    say(texts.not_uploaded if error.message == NOT_UPLOADED else texts.error(error.code, error.message), texts)
