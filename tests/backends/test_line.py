"""The line in front of the model: places, order, and whoever leaves it."""

from __future__ import annotations

import asyncio

import pytest

from backends.errors import Busy
from backends.line import Line


async def test_places_are_given_in_the_order_of_arrival() -> None:
    line = Line(2, 10, 60)
    a, b, c, d = (line.join() for _ in range(4))
    assert [turn.before for turn in (a, b, c, d)] == [0, 0, 1, 2]
    assert (line.taken, line.waiting) == (2, 2)
    b.leave()
    assert [turn.before for turn in (a, c, d)] == [0, 0, 1]
    for turn in (a, c, d):
        turn.leave()
    assert (line.taken, line.waiting) == (0, 0)


async def test_a_full_line_turns_away_at_once_and_takes_again_when_it_has_moved() -> None:
    line = Line(1, 1, 60)
    a, b = line.join(), line.join()
    with pytest.raises(Busy, match="1 answers are being given and 1 questions are in line"):
        line.join()
    a.leave()
    c = line.join()
    assert (b.before, c.before) == (0, 1)
    b.leave()
    c.leave()
    assert (line.taken, line.waiting) == (0, 0)


async def test_who_leaves_the_line_lets_the_others_move_up() -> None:
    line = Line(1, 5, 60)
    a, b, c = (line.join() for _ in range(3))
    b.leave()
    assert (c.before, line.taken, line.waiting) == (1, 1, 1)
    a.leave()
    assert (c.before, line.taken, line.waiting) == (0, 1, 0)
    c.leave()
    assert line.taken == 0


async def test_who_waits_is_told_of_each_move() -> None:
    line = Line(1, 5, 60)
    a, b, c = (line.join() for _ in range(3))
    moves = []

    async def follow() -> None:
        place = c.before
        while place:
            moves.append(place)
            place = await c.nearer(place)

    following = asyncio.create_task(follow())
    await asyncio.sleep(0)
    a.leave()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    b.leave()
    await asyncio.wait_for(following, 10)
    assert moves == [2, 1]
    c.leave()


async def test_a_move_while_nobody_listens_is_not_missed() -> None:
    line = Line(1, 5, 60)
    a, b = line.join(), line.join()
    place = b.before
    a.leave()
    assert await asyncio.wait_for(b.nearer(place), 10) == 0
    b.leave()


async def test_nobody_stands_in_line_for_ever() -> None:
    line = Line(1, 5, 0.05)
    a, b = line.join(), line.join()
    with pytest.raises(Busy, match="stood in line"):
        await b.nearer(1)
    b.leave()
    a.leave()
    assert (line.taken, line.waiting) == (0, 0)
