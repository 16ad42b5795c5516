"""Conversations are bounded in every direction, and know what an engine may be told of them."""

from __future__ import annotations

from webui import conversations
from webui.conversations import Conversation, Conversations


def test_history_holds_what_was_answered() -> None:
    talk = Conversation()
    first = talk.begin("one?")
    first.answer = "One."
    talk.end(first, "stop")
    failed = talk.begin("two?")
    talk.end(failed, "error")
    running = talk.begin("three?")
    running.answer = "Thr"
    assert talk.history == (("one?", "One."),)
    talk.end(running, "stopped")
    assert talk.history == (("one?", "One."), ("three?", "Thr"))


def test_the_first_reason_for_an_end_stays() -> None:
    talk = Conversation()
    turn = talk.begin("?")
    talk.end(turn, "stopped")
    talk.end(turn, "stop")
    assert turn.finish_reason == "stopped"
    assert talk.running is None


def test_the_oldest_turns_go_first() -> None:
    talk = Conversation()
    for number in range(conversations.MAX_TURNS + 5):
        talk.end(talk.begin(f"{number}"), "stop")
    assert len(talk.turns) == conversations.MAX_TURNS
    assert talk.turns[0].question == "5"


def test_a_long_conversation_is_cut_by_its_size_but_never_to_nothing() -> None:
    talk = Conversation()
    talk.begin("a").answer = "x" * (conversations.MAX_CHARACTERS // 2)
    talk.begin("b").answer = "y" * (conversations.MAX_CHARACTERS // 2)
    last = talk.begin("c" * 10)
    assert [turn.question[0] for turn in talk.turns] == ["b", "c"]
    last.answer = "z" * 2 * conversations.MAX_CHARACTERS
    assert talk.begin("d") is talk.turns[-1]
    assert len(talk.turns) == 1


def test_visitors_who_never_come_back_are_forgotten() -> None:
    known = Conversations(limit=3)
    known.get("a").begin("?")
    for key in ("b", "c", "a", "d"):
        known.get(key)
    assert len(known) == 3
    assert known.get("a").turns  # used lately, so it stays
    assert not known.get("b").turns


def test_forgetting_a_conversation_ends_its_answer() -> None:
    known = Conversations()
    talk = known.get("a")
    turn = talk.begin("?")
    known.forget("a")
    assert turn.stopping
    assert talk.running is None
    assert known.get("a") is not talk
    known.forget("never seen")
