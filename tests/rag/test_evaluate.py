"""python app.py evaluate: questions of a file, asked of a knowledge base."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from backends.errors import InvalidRequest
from rag.embedding_models import EmbeddingModels
from rag.evaluate import Evaluation, Question, evaluate, plot, read_questions
from rag.retriever import Retriever
from rag.sqlite_store import SqliteStore
from tests.rag.test_stores import MODEL, add


def squad(file: Path, *asked: tuple[str, str]) -> Path:
    qas = [{"question": question, "answers": [{"text": answer}] if answer else []} for question, answer in asked]
    file.write_text(json.dumps({"data": [{"paragraphs": [{"context": "", "qas": qas}]}]}), "utf-8")
    return file


def test_questions_are_counted_by_the_place_of_their_answer(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    store.ask_for_model("", MODEL.name)
    store.create_base("kb")
    add(store, "a", "The pump has a warranty of 36  Months.", "The pump is blue.", "The ferry leaves at nine.")
    file = squad(
        tmp_path / "questions.json",
        ("How long is the warranty of the pump?", "36 months"),
        ("When does the ferry leave?", "at nine"),
        ("What colour has the sky?", "green"),
        ("What is nowhere?", ""),
    )
    questions = read_questions(file)
    assert [question.answers for question in questions] == [("36 months",), ("at nine",), ("green",)]
    retriever = Retriever(store, EmbeddingModels(store, lambda source: MODEL, MODEL))
    result = evaluate(lambda text, k: retriever.search("kb", text, k), questions)
    store.close()
    assert result.places == (1, 1, 0)
    assert result.recall(1) == result.recall(4) == pytest.approx(2 / 3)
    assert result.mrr == pytest.approx(2 / 3)
    assert "recall@4 0.667" in result.report()


def test_recall_and_mrr_are_what_they_are_called() -> None:
    result = Evaluation((1, 2, 4, 0), 0.25, (0.1, 0.1, 0.1, 0.2))
    assert [result.recall(k) for k in (1, 2, 4)] == [0.25, 0.5, 0.75]
    assert result.mrr == pytest.approx((1 + 1 / 2 + 1 / 4) / 4)


@pytest.mark.parametrize("content", ["", "[]", '{"data": 3}', '{"data": [{}]}', '{"data": []}'])
def test_another_file_is_refused_in_a_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(InvalidRequest, match=r"x\.json"):
        read_questions(tmp_path / "x.json")
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_questions(tmp_path / "none.json")


def test_a_plot_is_drawn_or_its_library_named(tmp_path: Path) -> None:
    result = evaluate(lambda text, k: [], [Question("a", ("b",))])
    if importlib.util.find_spec("matplotlib"):
        plot(result, tmp_path / "a.png")
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    else:
        with pytest.raises(InvalidRequest, match="matplotlib"):
            plot(result, tmp_path / "a.png")
