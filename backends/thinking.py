"""Tells what a reasoning model thinks from what it answers: `<think>...</think>` in front of the answer."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Literal

OPEN, CLOSE = "<think>", "</think>"


class ThoughtSplitter:
    """Fed with text as it comes, it gives thought and answer apart, and never half a mark.

    `opened` says that the prompt ends inside the thought, so that the text may hold the end mark only. A mark that is
    not the first thing the model says is text like any other. White space around the marks belongs to neither side.
    """

    def __init__(self, opened: bool = False) -> None:
        self._stage: Literal["start", "opened", "thought", "closed", "answer"] = "opened" if opened else "start"
        self._held = ""  # what may be the beginning of a mark, or white space beside one

    @property
    def answering(self) -> bool:
        """From now on every text is answer."""
        return self._stage == "answer"

    def feed(self, text: str) -> tuple[str, str]:
        """The new thought and the new answer that are certain after this text."""
        self._held += text
        thought = ""
        if self._stage in ("start", "opened"):
            self._begin()
        if self._stage == "thought":
            thought = self._think()
        if self._stage == "closed":
            self._held = self._held.lstrip()
            if self._held:
                self._stage = "answer"
        return thought, self._release() if self.answering else ""

    def finish(self) -> tuple[str, str]:
        """What was held back, when nothing more comes."""
        rest = self._release()
        return ("", rest) if self._stage == "start" else (rest.rstrip(), "")

    def _begin(self) -> None:
        start = self._held.lstrip()
        if self._stage == "start":
            if not start.startswith(OPEN):
                if not OPEN.startswith(start):
                    self._stage = "answer"
                return
            self._stage = "opened"
        # Some models say the mark although their prompt has it already.
        while start.startswith(OPEN):
            start = start.removeprefix(OPEN).lstrip()
        self._held = start
        if not OPEN.startswith(self._held):
            self._stage = "thought"

    def _think(self) -> str:
        thought, mark, after = self._held.partition(CLOSE)
        if mark:
            self._stage, self._held = "closed", after
            return thought.rstrip()
        thought = _certain(thought)
        self._held = self._held[len(thought) :]
        return thought

    def _release(self) -> str:
        text, self._held = self._held, ""
        return text


def _certain(thought: str) -> str:
    """The text without what may be the beginning of the end mark, and the white space before that."""
    for length in range(min(len(thought), len(CLOSE) - 1), 0, -1):
        if CLOSE.startswith(thought[-length:]):
            return thought[:-length].rstrip()
    return thought.rstrip()


def opens_thought(folder: Path) -> bool:
    """Whether the chat template of the model in this folder ends its prompts inside a thought: then an answer has the
    end mark only. The template is read and not run: an opening mark that no end mark follows, where the answer begins.
    """
    try:
        template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    except (OSError, ValueError):
        template = _configured_template(folder / "tokenizer_config.json")
    _, _, prompt_end = template.rpartition("add_generation_prompt")
    return re.search(rf"{OPEN}(?!\s*(\\n)*\s*{CLOSE})", prompt_end) is not None


def _configured_template(file: Path) -> str:
    try:
        template = json.loads(file.read_text(encoding="utf-8"))["chat_template"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""
    return template if isinstance(template, str) else ""
