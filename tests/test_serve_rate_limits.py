"""How often a key may be used."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.access_keys import RateLimit
from serve_app.errors import RequestError
from serve_app.security.rate_limits import RateLimits


class Buckets:
    """Limits under a clock that a test moves."""

    def __init__(self, **limits):
        self.now_s = 1_000_000.0
        self.limits = limits
        self.rates = RateLimits(self.limits.get, lambda: self.now_s)

    def wait_s(self, name):
        """None for a request that passes, otherwise the seconds of Retry-After."""
        try:
            self.rates.take(name)
        except RequestError as error:
            return int(error.headers["Retry-After"])
        return None


def test_a_burst_passes_and_then_the_rate():
    buckets = Buckets(shop=RateLimit.parse("2/s", 5))
    assert [buckets.wait_s("shop") for _ in range(6)] == [None] * 5 + [1]
    buckets.now_s += 0.5
    assert [buckets.wait_s("shop") for _ in range(2)] == [None, 1]
    buckets.now_s += 60
    assert [buckets.wait_s("shop") for _ in range(6)] == [None] * 5 + [1]


def test_retry_after_is_the_time_until_the_next_one_passes():
    buckets = Buckets(slow=RateLimit.parse("6/min", 1))
    assert [buckets.wait_s("slow") for _ in range(4)] == [None, 10, 10, 10]
    buckets.now_s += 7.5
    assert buckets.wait_s("slow") == 3
    buckets.now_s += 2.5
    assert [buckets.wait_s("slow") for _ in range(2)] == [None, 10]


def test_each_key_has_a_bucket_of_its_own_and_some_have_none():
    buckets = Buckets(a=RateLimit.parse("1/h"), b=RateLimit.parse("1/h"))
    assert [buckets.wait_s(name) for name in ("a", "b", "a", "b")] == [None, None, 3600, 3600]
    assert [buckets.wait_s(name) for name in (None, "free") * 50] == [None] * 100


def test_a_new_limit_counts_at_once():
    buckets = Buckets(a=RateLimit.parse("1/h"))
    assert [buckets.wait_s("a") for _ in range(2)] == [None, 3600]
    buckets.limits["a"] = RateLimit.parse("3/s")
    assert [buckets.wait_s("a") for _ in range(4)] == [None, None, None, 1]
    del buckets.limits["a"]
    assert buckets.wait_s("a") is None


def test_the_refusal_says_which_key_and_how_often():
    buckets = Buckets(shop=RateLimit.parse("1/min"))
    buckets.rates.take("shop")
    with pytest.raises(RequestError) as refused:
        buckets.rates.take("shop")
    error = refused.value
    assert (error.status, error.code) == (429, "rate_limited")
    assert error.message == "The key shop may be used 1/min (at once: 1)"
    assert error.headers == {"Retry-After": "60"}
    assert "Retry-After" in error.hint


@given(
    count=st.integers(1, 50),
    unit=st.sampled_from(["s", "min", "h"]),
    burst=st.integers(1, 20),
    pauses_s=st.lists(st.floats(0, 100) | st.just(0.0), max_size=60),
)
def test_no_schedule_gets_more_than_burst_and_rate_and_none_less(count, unit, burst, pauses_s):
    limit = RateLimit.parse(f"{count}/{unit}", burst)
    buckets = Buckets(key=limit)
    tokens = float(burst)  # the textbook's bucket
    for pause_s in pauses_s:
        buckets.now_s += pause_s
        tokens = min(burst, tokens + pause_s * limit.per_s)
        wait_s = buckets.wait_s("key")
        if wait_s is None:
            tokens -= 1
            assert tokens > -1e-3
        else:
            assert tokens < 1 + 1e-3
            assert wait_s >= 1
            assert tokens + wait_s * limit.per_s > 1 - 1e-3  # who obeys passes
            assert tokens + (wait_s - 1) * limit.per_s < 1 + 1e-3  # and does not wait for nothing
