"""Thought and answer are told apart however the text is cut, and no half of a mark gets out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.thinking import CLOSE, OPEN, ThoughtSplitter, opens_thought

CASES = [
    # text, opened by the prompt, thought, answer
    ("<think>\nIt is 4.\n</think>\n\nFour.", False, "It is 4.", "Four."),
    ("\n<think>a</think>b", False, "a", "b"),
    ("<think>\n\n</think>\n\nFour.", False, "", "Four."),
    ("It is 4.\n</think>\n\nFour.", True, "It is 4.", "Four."),
    ("<think>\nIt is 4.</think>Four.", True, "It is 4.", "Four."),
    ("</think>Four.", True, "", "Four."),
    ("Four.", False, "", "Four."),
    ("  Four.", False, "", "  Four."),
    ("<thinking>Four.", False, "", "<thinking>Four."),
    ("The mark is <think>so</think>.", False, "", "The mark is <think>so</think>."),
    ("<think>a</think>b</think>c<think>d", False, "a", "b</think>c<think>d"),
    ("<think>a < b </thin and on</think>b", False, "a < b </thin and on", "b"),
    ("<think>cut off in the midd", False, "cut off in the midd", ""),
    ("<think>cut off in the mark </thi", False, "cut off in the mark </thi", ""),
    ("<thi", False, "", "<thi"),
    ("", False, "", ""),
    ("<think>想一想\n\n第二段</think>\n好。", False, "想一想\n\n第二段", "好。"),
]


def split(pieces: list[str], opened: bool = False) -> tuple[list[str], list[str]]:
    splitter = ThoughtSplitter(opened)
    parts = [splitter.feed(piece) for piece in pieces] + [splitter.finish()]
    return [thought for thought, _ in parts if thought], [answer for _, answer in parts if answer]


@pytest.mark.parametrize(("text", "opened", "thought", "answer"), CASES)
@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_however_the_text_is_cut(text: str, opened: bool, thought: str, answer: str, size: int) -> None:
    thoughts, answers = split([text[i : i + size] for i in range(0, len(text), size)], opened)
    assert ("".join(thoughts), "".join(answers)) == (thought, answer)


@given(st.lists(st.sampled_from([OPEN, CLOSE, "<", "</", "think", ">", " ", "\n", "word", "好"])), st.booleans())
def test_any_text_gives_the_same_cut_or_whole_and_loses_nothing_but_marks(pieces: list[str], opened: bool) -> None:
    thoughts, answers = split(pieces, opened)
    whole_thoughts, whole_answers = split(["".join(pieces)], opened)
    assert "".join(thoughts) == "".join(whole_thoughts)
    assert "".join(answers) == "".join(whole_answers)
    assert CLOSE not in "".join(thoughts)

    def bare(text: str) -> str:
        return "".join(text.split())

    said, got = bare("".join(pieces)), bare("".join(thoughts + answers))
    assert len(got) >= len(said) - len(OPEN) * said.count(OPEN) - len(CLOSE)


def test_text_goes_through_at_once_where_nobody_thinks() -> None:
    splitter = ThoughtSplitter()
    assert splitter.feed("F") == ("", "F")
    assert splitter.answering
    assert splitter.feed("<think>") == ("", "<think>")


ANSWER = "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n'"
TEMPLATES = [
    # As the families write the end of their prompts: Qwen3 (it may think, or not), its thinking-only successors,
    # DeepSeek-R1, a template without thoughts, one that speaks of earlier thoughts only.
    (ANSWER + " }}{%- if not enable_thinking %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}", False),
    (ANSWER + "+ '<think>\\n' }}{%- endif %}", True),
    ("{% if add_generation_prompt and not ns.is_tool %}{{'<|Assistant|><think>\\n'}}{% endif %}", True),
    (ANSWER + " }}{%- endif %}", False),
    ("{% for m in messages %}{{ '<think>' + m.reasoning }}{% endfor %}" + ANSWER + " }}{% endif %}", False),
    ("", False),
]


@pytest.mark.parametrize(("template", "opens"), TEMPLATES)
@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_template_tells_whether_the_prompt_opens_the_thought(
    template: str, opens: bool, place: str, tmp_path: Path
) -> None:
    text = template if place.endswith("jinja") else json.dumps({"chat_template": template})
    (tmp_path / place).write_text(text)
    assert opens_thought(tmp_path) is opens


def test_a_folder_without_a_template_opens_no_thought(tmp_path: Path) -> None:
    assert not opens_thought(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[")
    assert not opens_thought(tmp_path)
