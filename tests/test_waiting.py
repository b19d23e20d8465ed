"""Waiting for items with a limit."""

from __future__ import annotations

import threading

import pytest

from appliance.on_ray.waiting import StandstillError, each_within

LONG_S = 60.0


class Source:
    """Counts up; can hang before a number, or fail at it, and tells when it was closed."""

    def __init__(self, *, hangs_at=None, fails_at=None):
        self.hangs_at, self.fails_at = hangs_at, fails_at
        self.asked = 0
        self.closed = threading.Event()
        self.go_on = threading.Event()

    def items(self, count):
        try:
            for number in range(count):
                self.asked += 1
                if number == self.hangs_at:
                    self.go_on.wait(LONG_S)
                if number == self.fails_at:
                    raise ValueError("no such number")
                yield number
        finally:
            self.closed.set()


def test_they_come_in_order_and_their_source_is_closed():
    source = Source()
    assert list(each_within(source.items(5), LONG_S)) == [0, 1, 2, 3, 4]
    assert source.closed.wait(LONG_S)
    assert list(each_within(Source().items(0), LONG_S)) == []


def test_none_is_fetched_before_it_is_asked_for_and_who_stops_closes():
    source = Source()
    items = each_within(source.items(5), LONG_S)
    assert source.asked == 0
    assert [next(items), next(items)] == [0, 1]
    items.close()
    assert source.closed.is_set()
    assert source.asked == 2


def test_what_the_source_raises_arrives():
    source = Source(fails_at=1)
    items = each_within(source.items(5), LONG_S)
    assert next(items) == 0
    with pytest.raises(ValueError, match="no such number"):
        next(items)
    assert source.closed.wait(LONG_S)


def test_one_that_never_comes_is_given_up():
    source = Source(hangs_at=1)
    items = each_within(source.items(5), 0.1)
    assert next(items) == 0
    with pytest.raises(StandstillError, match="nothing came in 0 s"):
        next(items)
    assert not source.closed.is_set()
    source.go_on.set()  # it comes after all: nobody waits any more, so the source ends
    assert source.closed.wait(LONG_S)
    assert source.asked == 2
