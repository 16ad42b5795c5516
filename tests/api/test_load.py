"""A short round of `python -m bench.load`: every answer whole, nothing left behind. The bench has the figures."""

from __future__ import annotations

import pytest

from bench.load import load


@pytest.mark.timeout(300)
def test_many_dialogues_and_streams_at_once() -> None:
    report = load(seconds=8.0, sockets=60, streams=16, rest=(0.5, 2.0), every=0.5)
    assert report.errors == []
    assert report.left == (0, 0)
    assert report.answers["stream"] >= 16
    assert report.answers["WebSocket"] >= 30
    sizes = [size for _, size in report.memory]
    assert max(sizes) < 2 * sizes[0]
