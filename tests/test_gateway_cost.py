"""What passing an answer on costs, in one run beside direct; `python -m bench.gateway` has the figures for README."""

from __future__ import annotations

import pytest

from bench.gateway import gateway, run_load


@pytest.mark.timeout(300)
def test_streams_through_quartet_are_not_much_slower_than_direct() -> None:
    """A third of what the bench is to reach: other tests share the two cores. With httpx and h11 it was 0.14."""
    with gateway(0.0) as (engine, ours, _):
        ratios = []
        for _ in range(3):
            direct = run_load(engine, 16, 8).answers_per_second
            ratios.append(run_load(ours, 16, 8).answers_per_second / direct)
    assert max(ratios) > 0.2, [round(ratio, 2) for ratio in ratios]


@pytest.mark.timeout(300)
def test_the_first_chunk_does_not_wait_for_an_acknowledgement() -> None:
    """A socket without TCP_NODELAY holds the first words back for 40 ms, alone and on an idle machine too."""
    with gateway(0.01) as (engine, ours, _):
        added = [1000 * (run_load(ours, 1, 3).first - run_load(engine, 1, 3).first) for _ in range(3)]
    assert min(added) < 30, added
