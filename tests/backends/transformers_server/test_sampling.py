"""Each request draws in its own way, as generate() would, whatever stands beside it in the batch."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from backends.engines.transformers_server.sampling import Drawer, RowSampler, Sampling

SCORES = torch.tensor([2.0, 1.0, 0.0, -1.0, -3.0])


def sampling(**changes: Any) -> Sampling:
    neutral = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0, "seed": 1}
    return Sampling(**{**neutral, **changes})


def draws(wanted: Sampling, count: int = 2_000, scores: torch.Tensor = SCORES) -> Counter[int]:
    drawer = Drawer(wanted, "cpu")
    return Counter(int(drawer.draw([], scores)) for _ in range(count))


def test_the_most_likely_token_without_sampling() -> None:
    assert set(draws(sampling(do_sample=False, temperature=3.0), 20)) == {0}


def test_top_k_and_top_p_leave_the_best() -> None:
    assert set(draws(sampling(top_k=2))) == {0, 1}
    assert set(draws(sampling(top_p=0.9))) == {0, 1, 2}
    assert set(draws(sampling(top_p=0.0), 50)) == {0}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_the_model_says(temperature: float) -> None:
    count = 6_000
    found = draws(sampling(temperature=temperature), count)
    for token, probability in enumerate((SCORES / temperature).softmax(-1).tolist()):
        assert found[token] / count == pytest.approx(probability, abs=0.025)


def test_a_repetition_is_made_less_likely() -> None:
    drawer = Drawer(sampling(do_sample=False, repetition_penalty=3.0), "cpu")
    assert int(drawer.draw([], SCORES)) == 0
    assert int(drawer.draw([0], SCORES)) == 1


def test_scores_are_left_as_they_were() -> None:
    scores = SCORES.clone()
    Drawer(sampling(top_k=1, repetition_penalty=2.0), "cpu").draw([0], scores)
    assert torch.equal(scores, SCORES)


def test_scores_that_are_no_numbers_break_nothing() -> None:
    token = int(Drawer(sampling(), "cpu").draw([], torch.full((5,), torch.nan)))
    assert 0 <= token < 5


def row(drawer: Drawer) -> Any:
    parameters = {"drawer": drawer}
    return SimpleNamespace(
        state=SimpleNamespace(logit_processor_kwargs=parameters, initial_tokens=[3], generated_tokens=[4])
    )


def test_a_seed_draws_the_same_alone_and_in_company() -> None:
    def run(company: int) -> list[int]:
        ours, sampler = Drawer(sampling(temperature=3.0, seed=9), "cpu"), RowSampler()
        others = [Drawer(sampling(temperature=5.0, seed=None), "cpu") for _ in range(company)]
        tokens = []
        for _ in range(40):
            sampler.prepare_tensor_args([*(row(other) for other in others), row(ours)])
            chosen = sampler(SCORES.repeat(company + 1, 1), torch.zeros(company + 1, dtype=torch.int32))
            tokens.append(int(chosen[-1].argmax()))
        return tokens

    assert run(0) == run(5)
    assert len(set(run(0))) > 2


def test_padding_rows_are_left_alone_and_tokens_are_counted() -> None:
    sampler = RowSampler()
    sampler.prepare_tensor_args([row(Drawer(sampling(top_k=1), "cpu"))])
    chosen = sampler(SCORES.repeat(3, 1), torch.zeros(3, dtype=torch.int32))
    assert chosen[0].tolist() == [0.0, *[-torch.inf] * 4]
    assert torch.equal(chosen[1:], SCORES.repeat(2, 1))
    assert sampler.drawn == 1
