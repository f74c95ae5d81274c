"""Batches are drawn ahead, in order, and errors come where they belong."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from world_models.training.read_ahead import read_ahead


@given(st.lists(st.integers()))
def test_results_come_in_order(numbers: list[int]) -> None:
    calls = [partial(int, number) for number in numbers]
    assert list(read_ahead(calls)) == numbers


def test_the_next_call_is_made_while_a_result_is_in_use() -> None:
    begun = [threading.Event() for _ in range(3)]
    calls: list[Callable[[], None]] = [event.set for event in begun]
    for number, _ in enumerate(read_ahead(calls)):
        assert all(event.wait(10) for event in begun[: number + 2])


def test_an_error_comes_in_its_turn() -> None:
    results = read_ahead([lambda: 1, lambda: 1 // 0, lambda: 3])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(read_ahead([])) == []
