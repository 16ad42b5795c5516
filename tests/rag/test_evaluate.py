"""python app.py evaluate: questions of a file, asked of a knowledge base."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import app
from backends.errors import InvalidRequest
from rag.embedding_models import EmbeddingModels
from rag.evaluate import Evaluation, Question, evaluate, read_questions
from rag.model_name import model_name
from rag.plot import plot
from rag.retriever import Retriever
from rag.sqlite_store import SqliteStore
from rag.types import Hit
from tests.rag.test_stores import MODEL, add, begin
from tests.running_server import clean_environment


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
    assert [question.answers for question in questions] == [("36 months",), ("at nine",), ("green",), ()]
    retriever = Retriever(store, EmbeddingModels(store, lambda source: MODEL, MODEL))
    result = evaluate(lambda text, k: retriever.chosen("kb", text, k), questions)
    store.close()
    assert result.places == (1, 1, 0)
    assert result.recall(1) == result.recall(4) == pytest.approx(2 / 3)
    assert result.mrr == pytest.approx(2 / 3)
    assert "recall@4 0.667" in result.report(0.35)
    assert result.scores[0] > 0.35
    assert result.scores[2] == 0.0
    assert len(result.mistaken) == 1


def test_recall_and_mrr_are_what_they_are_called() -> None:
    result = Evaluation((1, 2, 4, 0), (0.9, 0.5, 0.2, 0.0), (), (0.1, 0.1, 0.1, 0.2))
    assert [result.recall(k) for k in (1, 2, 4)] == [0.25, 0.5, 0.75]
    assert result.mrr == pytest.approx((1 + 1 / 2 + 1 / 4) / 4)


def test_the_report_says_what_each_threshold_lets_through() -> None:
    result = Evaluation((1, 2, 4, 0), (0.9, 0.36, 0.2, 0.0), (0.33, 0.1), (0.1,) * 6)
    lines = [line.split() for line in result.report(0.35).splitlines()]
    assert [line for line in lines if line[0].startswith("0.")] == [
        ["0.25", "0.500", "0.500"],
        ["0.30", "0.500", "0.500"],
        ["0.35", "0.500", "0.000", "(in", "use)"],
        ["0.40", "0.250", "0.000"],
        ["0.45", "0.250", "0.000"],
    ]
    assert "without" not in "\n".join(Evaluation((1,), (0.9,), (), (0.1,)).report(0.0).splitlines()[1:])


@pytest.mark.parametrize(
    ("answer", "passage", "there"),
    [
        ("3", "built in 1993", False),
        ("3", "in 3 steps", True),
        ("at nine", "It leaves At\nNine.", True),
        ("art", "the party begins", False),
        ("$5", "it costs $5.", True),
        ("知识", "这是知\n识库", True),
        ("3", "共3个", True),
    ],
)
def test_an_answer_stands_in_a_passage_as_words(answer: str, passage: str, there: bool) -> None:
    hit = Hit("1", passage, 0.9, "a.txt", "a", None, "")
    assert evaluate(lambda text, k: [hit], [Question("?", (answer,))]).places == (int(there),)


@pytest.mark.parametrize("content", ["", "[]", '{"data": 3}', '{"data": [{}]}', '{"data": []}'])
def test_another_file_is_refused_in_a_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(InvalidRequest, match=r"x\.json"):
        read_questions(tmp_path / "x.json")
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_questions(tmp_path / "none.json")


def test_recall_is_drawn_as_a_picture(tmp_path: Path) -> None:
    def ends(recalls: list[float]) -> tuple[int, int]:
        """How far from the upper edge the blue line begins and ends, in pixels."""
        plot(recalls, "3 questions", tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as picture:
            rows, columns = np.nonzero((np.asarray(picture) == (37, 99, 235)).all(axis=2))
        return int(rows[columns.argmin()]), int(rows[columns.argmax()])

    first, last = ends([0.2, 0.9])
    assert first > last
    level = ends([0.5, 0.5])
    assert level[0] == level[1]
    assert last < level[0] < first
    with pytest.raises(InvalidRequest, match=r"\.png"):
        plot([0.5], "", tmp_path / "a.exe")


def test_the_command_says_what_it_found_and_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in set(app.os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)
    monkeypatch.setattr(app, "quiet_libraries", lambda environment: None)  # this process is not only the app's
    data = tmp_path / "data"
    file = squad(tmp_path / "questions.json", ("How long is the warranty of the pump?", "36 months"))

    def evaluated(*flags: str) -> tuple[int, str]:
        code = app.main(["evaluate", str(file), "--data-dir", str(data), *flags])
        shown = capsys.readouterr()
        assert "Traceback" not in shown.out + shown.err
        return code, shown.out + shown.err

    assert evaluated() == (2, "Quartet: Say with --knowledge-base which one is asked: there is none yet.\n")
    store = SqliteStore(data)
    store.ask_for_model("", model_name(""))
    for base in ("kb", "空的"):
        store.create_base(base)
    begin(store, "a", "The pump has a warranty of 36 Months.", "The ferry leaves at nine.")
    store.add_vectors("a", store.passages_without_vector("a"), np.eye(2, 384, dtype=np.float32))
    store.finish("a")
    store.close()
    assert "“kb”, “空的”" in evaluated()[1]
    assert "no searchable document" in evaluated("--knowledge-base", "空的")[1]
    assert "nowhere" in evaluated("--knowledge-base", "nowhere")[1]
    assert ".png" in evaluated("--knowledge-base", "kb", "--plot", str(tmp_path / "a.exe"))[1]
    code, told = evaluated("--knowledge-base", "kb", "--plot")
    assert code == 0
    assert "1 questions with an answer" in told
    assert "recall@1 1.000" in told
    assert (tmp_path / "questions.png").read_bytes().startswith(b"\x89PNG")
