from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from rag.ranking import THRESHOLD, Candidate, Candidates, diverse, keyword_scores, rank
from rag.words import question_words, words

ENGLISH = frozenset({"latin"})


def candidates(*texts: str, cosines: Sequence[float] | None = None) -> Candidates:
    passages = [
        Candidate(n, text, " ".join(words(text)), cosines[n] if cosines else None, "a.txt", "id", None, "")
        for n, text in enumerate(texts)
    ]
    frequency = Counter(word for passage in passages for word in set(passage.words.split()))
    return Candidates(passages, len(passages), frequency)


def order(query: str, found: Candidates, spoken: frozenset[str] = ENGLISH) -> list[int]:
    return [scored.candidate.passage_id for scored in rank(query, question_words(query), found, spoken)]


def test_rare_words_count_more_than_common_ones() -> None:
    found = candidates(
        "The museum opens at nine.", "The museum shows a Rembrandt.", "The museum is closed.", "Museum shop."
    )
    assert order("Is there a Rembrandt in the museum?", found)[0] == 1


def test_a_word_counts_as_often_as_it_is_said_also_twice_in_a_row() -> None:
    found = candidates("green tea in a cup", "tea tea in a cup", "steam in a cup")
    once, twice, part_of_another = keyword_scores("tea", ["tea"], found)
    assert twice > once > part_of_another == 0.0


def test_meaning_decides_where_no_word_is_shared() -> None:
    found = candidates("Felines rest a lot.", "Taxes are due in May.", cosines=[0.7, 0.1])
    assert order("How much do cats sleep?", found) == [0, 1]


def test_vectors_of_a_language_the_model_does_not_speak_are_left_out() -> None:
    # What an English model says of two Chinese texts is noise, and here the noise points the wrong way.
    texts = ("黑豹队的防守丢了308分。", "今天的天气很好，适合出门。")
    found = candidates(*texts, cosines=[0.2, 0.95])
    assert order("黑豹队丢了多少分？", found, ENGLISH) == [0, 1]
    # A model that speaks Chinese is listened to.
    assert order("黑豹队丢了多少分？", candidates("黑豹队", "豹", cosines=[0.0, 0.95]), ENGLISH | {"han"})[0] == 1


def test_chinese_names_are_found_however_they_are_cut() -> None:
    found = candidates("尼古拉·特斯拉发明了交流电机。", "爱迪生改进了电灯泡。", "法拉第研究了电磁感应。")
    assert order("特斯拉发明了什么？", found)[0] == 0


def test_scores_are_between_0_and_1_and_best_first() -> None:
    found = candidates(
        "alpha beta gamma", "alpha alpha alpha alpha beta beta gamma", "delta", cosines=[1.0, 0.99, -0.9]
    )
    scores = [scored.score for scored in rank("alpha beta gamma?", question_words("alpha beta gamma?"), found, ENGLISH)]
    assert scores == sorted(scores, reverse=True)
    assert all(0.0 <= score <= 1.0 for score in scores)


def test_small_talk_stays_below_the_threshold() -> None:
    found = candidates("Who are you? How are they? Tell me.", "你能做什么？你是谁？", cosines=[0.15, 0.2])
    for talk in ("hello", "how are you?", "who are you?", "你好", "你是谁？", "谢谢"):
        assert rank(talk, question_words(talk), found, ENGLISH)[0].score < THRESHOLD, talk


@pytest.mark.parametrize(
    "talk", ["hello", "Hi there!", "thanks a lot", "good morning", "你好", "早上好！", "谢谢", "在吗？"]
)
def test_a_document_about_greetings_is_no_answer_to_a_greeting(talk: str) -> None:
    found = candidates(
        "Hello and hi are greetings; good morning is said before noon, thanks a lot when one is grateful.",
        "你好是最常用的问候语，早上好用于上午，谢谢表示感激，在吗用于聊天。",
        cosines=[0.8, 0.8],
    )
    assert {scored.score for scored in rank(talk, question_words(talk), found, ENGLISH)} == {0.0}
    for question, at in (("When does one say good morning?", 0), ("早上好用在什么时候？", 1)):
        best = rank(question, question_words(question), found, ENGLISH)[0]
        assert best.candidate.passage_id == at
        assert best.score > THRESHOLD


def test_a_direct_answer_is_above_the_threshold_even_in_a_base_of_one_passage() -> None:
    found = candidates("The warranty of the pump lasts 36 months.", cosines=[0.6])
    query = "How long is the warranty of the pump?"
    assert rank(query, question_words(query), found, ENGLISH)[0].score > THRESHOLD


def test_nothing_to_compare_scores_nothing() -> None:
    assert keyword_scores("", [], candidates("some text")) == [0.0]
    assert rank("anything", ["anything"], Candidates([], 0, {}), ENGLISH) == []


def shown(query: str, found: Candidates, count: int) -> list[int]:
    ranked = rank(query, question_words(query), found, ENGLISH)
    return [scored.candidate.passage_id for scored in diverse(ranked, count)]


def test_the_same_text_again_takes_no_place_from_another() -> None:
    warranty = "The warranty of the pump lasts thirty-six months from the day of delivery to the customer."
    copies = [warranty, warranty + " End.", "Page 3. " + warranty, warranty]
    found = candidates(*copies, "The warranty of the motor lasts a year.", "Who sells the pump gives its warranty.")
    assert set(shown("How long is the warranty of the pump?", found, 3)) == {0, 4, 5}
    assert len(shown("How long is the warranty of the pump?", found, 6)) == 6  # there is nothing else to show


def test_what_is_chosen_begins_with_the_best_and_with_what_is_chosen_of_fewer() -> None:
    found = candidates("alpha beta", "alpha beta gamma delta", "alpha beta gamma delta", "beta", "delta gamma")
    query = "alpha beta gamma?"
    ranked = rank(query, question_words(query), found, ENGLISH)
    for count in range(7):
        chosen = diverse(ranked, count)
        assert len(chosen) == min(count, 5)
        assert chosen[:1] == ranked[: min(count, 1)]
        assert chosen == diverse(ranked, 5)[:count]
