"""The line in front of the model: places, order, and whoever leaves it."""

from __future__ import annotations

import asyncio

import pytest

from backends.errors import Busy
from backends.line import Line


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Crowd:
    """People who take a place, hold it until `done` is set, and note when they got it."""

    def __init__(self, line: Line) -> None:
        self.line, self.order, self.done = line, list[str](), dict[str, asyncio.Event]()

    def send(self, name: str) -> asyncio.Task[None]:
        self.done[name] = asyncio.Event()
        return asyncio.create_task(self._hold(name))

    async def _hold(self, name: str) -> None:
        async with self.line.place():
            self.order.append(name)
            await self.done[name].wait()


async def test_places_are_given_in_the_order_of_arrival() -> None:
    crowd = Crowd(Line(2, 10, 60))
    tasks = [crowd.send(name) for name in "abcd"]
    await settle()
    assert (crowd.order, crowd.line.taken, crowd.line.waiting) == (["a", "b"], 2, 2)
    crowd.done["b"].set()
    await settle()
    assert (crowd.order, crowd.line.taken, crowd.line.waiting) == (["a", "b", "c"], 2, 1)
    for event in crowd.done.values():
        event.set()
    await asyncio.gather(*tasks)
    assert (crowd.order, crowd.line.taken, crowd.line.waiting) == (["a", "b", "c", "d"], 0, 0)


async def test_a_full_line_turns_away_at_once_and_takes_again_when_it_has_moved() -> None:
    crowd = Crowd(Line(1, 1, 60))
    first, second = crowd.send("a"), crowd.send("b")
    await settle()
    with pytest.raises(Busy, match="1 answers are being given and 1 questions are in line"):
        async with crowd.line.place():
            pass
    crowd.done["a"].set()
    await first
    third = crowd.send("c")
    await settle()
    assert (crowd.order, crowd.line.waiting) == (["a", "b"], 1)
    crowd.done["b"].set()
    crowd.done["c"].set()
    await asyncio.gather(second, third)


async def test_who_leaves_the_line_gives_up_the_turn() -> None:
    crowd = Crowd(Line(1, 5, 60))
    first, second, third = (crowd.send(name) for name in "abc")
    await settle()
    second.cancel()
    await settle()
    assert crowd.line.waiting == 1
    crowd.done["a"].set()
    await settle()
    assert crowd.order == ["a", "c"]
    crowd.done["c"].set()
    await asyncio.gather(first, third)
    assert (crowd.line.taken, crowd.line.waiting) == (0, 0)


async def test_a_place_that_comes_while_its_owner_is_cancelled_goes_to_the_next() -> None:
    crowd = Crowd(Line(1, 5, 60))
    async with crowd.line.place():
        first, second = crowd.send("a"), crowd.send("b")
        await settle()
    first.cancel()  # the place is a's already, but a has not run since
    await settle()
    assert crowd.order == ["b"]
    crowd.done["b"].set()
    await second
    assert crowd.line.taken == 0


async def test_nobody_stands_in_line_for_ever() -> None:
    crowd = Crowd(Line(1, 5, 0.05))
    first = crowd.send("a")
    await settle()
    with pytest.raises(Busy, match="stood in line"):
        async with crowd.line.place():
            pass
    crowd.done["a"].set()
    await first
    assert (crowd.line.taken, crowd.line.waiting) == (0, 0)
