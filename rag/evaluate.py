"""How well a knowledge base finds the answers of a file of questions (SQuAD's format). Changes nothing in it."""

from __future__ import annotations

import json
import re
import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.errors import InvalidRequest
from rag.scripts import HAN
from rag.types import Hit

DEPTH = 10  # passages looked at for each question
_USED = 4  # of these a chat uses
_KS = (1, 2, _USED, DEPTH)
_STEPS = (-0.1, -0.05, 0.0, 0.05, 0.1)  # from the threshold in use


@dataclass(frozen=True)
class Question:
    """A question and the texts of which one must stand in the passage that answers it; none where the documents do not
    answer it."""

    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Evaluation:
    """Of the questions that have an answer, `places` says at which place, from 1, it stood, 0 where not among the first
    `DEPTH`, and `scores` what its passage scored, 0 where a chat would not see it. `mistaken` are the best scores for
    the questions that have none; `times` are in seconds."""

    places: tuple[int, ...]
    scores: tuple[float, ...]
    mistaken: tuple[float, ...]
    times: tuple[float, ...]

    def recall(self, k: int) -> float:
        """The share of the questions whose answer is among the first `k` passages."""
        return sum(0 < place <= k for place in self.places) / len(self.places)

    @property
    def mrr(self) -> float:
        """Mean reciprocal rank (Voorhees, TREC-8, 1999), 0 for answers that are not among the first `DEPTH`."""
        return sum(1 / place for place in self.places if place) / len(self.places)

    def report(self, threshold: float) -> str:
        """What an operator reads; `threshold` is the one in use."""
        ordered = sorted(self.times)
        median, p95 = (1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.95))
        recalls = "   ".join(f"recall@{k} {self.recall(k):.3f}" for k in _KS)
        return "\n".join(
            [
                f"{len(self.places)} questions with an answer, {len(self.mistaken)} without",
                f"{recalls}   MRR {self.mrr:.3f}",
                *self._thresholds(threshold),
                f"time for a question: {median:.0f} ms median, {p95:.0f} ms p95",
            ]
        )

    def _thresholds(self, used: float) -> list[str]:
        """A line for each threshold: what it lets through of what a chat should see, and of what it should not."""
        lines = [f"threshold   answers among the {_USED} passages that a chat gets"]
        if self.mistaken:
            lines[0] += "   questions without an answer that get a passage"
        for threshold in sorted({round(used + step, 2) for step in _STEPS if 0 <= used + step <= 1}):
            line = f"{threshold:9.2f}   {_share(self.scores, threshold):.3f}"
            if self.mistaken:
                line += f"{_share(self.mistaken, threshold):>39.3f}"
            lines.append(line + ("   (in use)" if threshold == round(used, 2) else ""))
        return lines


def _share(scores: Sequence[float], threshold: float) -> float:
    return sum(score > 0 and score >= threshold for score in scores) / len(scores)


def read_questions(file: Path) -> list[Question]:
    """Those of a SQuAD file, also those without an answer. Raises InvalidRequest when it is no such file."""
    try:
        data: Any = json.loads(file.read_text("utf-8"))
        questions = [
            Question(asked["question"], tuple({answer["text"] for answer in asked["answers"]} - {""}))
            for article in data["data"]
            for paragraph in article["paragraphs"]
            for asked in paragraph["qas"]
        ]
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read: {error.strerror}; name a file of questions.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(
            f"{file} is no file of questions in SQuAD's format ({type(error).__name__}): it has "
            '{"data": [{"paragraphs": [{"qas": [{"question": ..., "answers": [{"text": ...}]}]}]}]}.'
        ) from None
    if not any(question.answers for question in questions):
        raise InvalidRequest(f"{file} has no question with an answer; add some.")
    return questions


def evaluate(search: Callable[[str, int], Sequence[Hit]], questions: Sequence[Question]) -> Evaluation:
    """`search` gives the best passages for a question in the order in which they are chosen: the first k are what a
    search for k gives. An answer counts as found when it stands in a passage as a word or words; case, white space and
    compatibility forms aside."""
    places, scores, mistaken, times = [], [], [], []
    search(questions[0].text, DEPTH)  # loads the model, which is no question's time
    for question in questions:
        began = time.perf_counter()
        hits = search(question.text, DEPTH)
        times.append(time.perf_counter() - began)
        if not question.answers:
            mistaken.append(max((hit.score for hit in hits), default=0.0))
            continue
        answers = [_said(answer) for answer in question.answers]
        texts = [_plain(hit.text) for hit in hits]
        found = (at for at, text in enumerate(texts, start=1) if any(answer.search(text) for answer in answers))
        places.append(next(found, 0))
        scores.append(hits[places[-1] - 1].score if 0 < places[-1] <= _USED else 0.0)
    return Evaluation(tuple(places), tuple(scores), tuple(mistaken), tuple(times))


def _said(answer: str) -> re.Pattern[str]:
    """Finds an answer in a text, not inside of a longer word or number; in Chinese words have no borders to see."""
    plain = _plain(answer)
    before = rf"(?<![^\W_{HAN}])" if re.match(rf"[^\W_{HAN}]", plain) else ""
    after = rf"(?![^\W_{HAN}])" if re.search(rf"[^\W_{HAN}]$", plain) else ""
    return re.compile(before + re.escape(plain) + after)


def _plain(text: str) -> str:
    text = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return re.sub(rf"(?<=[{HAN}]) (?=[{HAN}])", "", text)
