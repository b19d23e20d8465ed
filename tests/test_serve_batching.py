"""The batcher on its own, with a function one can check by hand: 2 * x + 1."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from appliance.errors import ServiceError
from serve_app.scoring.batching import Batcher

FOREVER_S = 60.0


class Doubler:
    """2 * x + 1, remembering the batches; refuses 13, and waits at the gate before each batch."""

    def __init__(self):
        self.batches = []
        self.started = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, items):
        self.batches.append(list(items))
        self.started.set()
        assert self.gate.wait(FOREVER_S)
        if 13 in items:
            raise ValueError("13 is refused")
        return [2 * item + 1 for item in items]


def run(
    scenario, *, max_batch_size=4, wait_timeout_s=FOREVER_S, process=None, max_running=1, **options
):
    """Runs `scenario(batcher, doubler)` in a fresh loop, closes the batcher, returns its result."""
    doubler = Doubler()

    async def main():
        with ThreadPoolExecutor(max_running) as executor:
            batcher = Batcher(
                process or doubler,
                executor,
                max_batch_size=max_batch_size,
                wait_timeout_s=wait_timeout_s,
                max_running=max_running,
                **options,
            )
            result = await scenario(batcher, doubler)
            await batcher.close()
            return result

    # In a thread of its own: on Python 3.11 an error thrown into a coroutine makes coverage lose track
    # of the lines of whoever runs the loop.
    with ThreadPoolExecutor(1) as loop_thread:
        return loop_thread.submit(asyncio.run, main()).result(FOREVER_S), doubler.batches


async def submit_behind_a_running_batch(batcher, doubler, items):
    """Holds the worker with item 0 and returns tasks for `items`, which then wait."""
    doubler.gate.clear()
    first = asyncio.create_task(batcher.submit(0))
    await asyncio.to_thread(doubler.started.wait, FOREVER_S)
    tasks = [asyncio.create_task(batcher.submit(item)) for item in items]
    while batcher.waiting < len(items):
        await asyncio.sleep(0)
    return first, tasks


def test_a_full_batch_leaves_at_once():
    async def scenario(batcher, _):
        return await asyncio.gather(*map(batcher.submit, range(4)))

    answers, batches = run(scenario)
    assert answers == [1, 3, 5, 7]
    assert batches == [[0, 1, 2, 3]]


def test_a_partial_batch_leaves_at_its_deadline():
    async def scenario(batcher, _):
        started = asyncio.get_running_loop().time()
        answers = await asyncio.gather(*map(batcher.submit, range(3)))
        return answers, asyncio.get_running_loop().time() - started

    (answers, elapsed_s), batches = run(scenario, wait_timeout_s=0.05)
    assert answers == [1, 3, 5]
    assert batches == [[0, 1, 2]]
    assert elapsed_s >= 0.05


def test_nothing_waits_when_nothing_else_is_coming():
    async def scenario(batcher, _):
        return [await batcher.submit(item) for item in (1, 2)]

    answers, batches = run(scenario, expects_more=lambda: False)
    assert answers == [3, 5]
    assert batches == [[1], [2]]


def test_items_gather_while_a_batch_runs():
    async def scenario(batcher, doubler):
        first, tasks = await submit_behind_a_running_batch(batcher, doubler, [1, 2, 3, 4, 5])
        doubler.gate.set()
        return await asyncio.gather(first, *tasks)

    answers, batches = run(scenario, wait_timeout_s=0)
    assert answers == [1, 3, 5, 7, 9, 11]
    assert batches == [[0], [1, 2, 3, 4], [5]]


def test_batches_run_side_by_side_and_closing_waits_for_all():
    two = threading.Barrier(2)

    def process(items):
        two.wait(FOREVER_S)  # whoever is alone waits for ever
        return [2 * item + 1 for item in items]

    async def scenario(batcher, _):
        tasks = [asyncio.create_task(batcher.submit(item)) for item in range(4)]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        await batcher.close()
        return [task.result() for task in tasks]

    answers, _ = run(scenario, process=process, max_batch_size=1, wait_timeout_s=0, max_running=2)
    assert answers == [1, 3, 5, 7]


def test_an_error_reaches_only_the_item_that_causes_it():
    async def scenario(batcher, _):
        return await asyncio.gather(*map(batcher.submit, (1, 13, 3, 4)), return_exceptions=True)

    answers, batches = run(scenario)
    assert [answers[0], *answers[2:]] == [3, 7, 9]
    assert isinstance(answers[1], ValueError)
    assert batches == [[1, 13, 3, 4], [1], [13], [3], [4]]


def test_a_wrong_number_of_results_is_an_error_and_the_worker_lives_on():
    async def scenario(batcher, _):
        with pytest.raises(RuntimeError, match="1 items gave 2 results"):
            await batcher.submit(1)
        with pytest.raises(RuntimeError):
            await batcher.submit(2)
        return batcher.healthy

    healthy, _ = run(scenario, wait_timeout_s=0, process=lambda items: [*items, 0])
    assert healthy


def test_a_cancelled_item_leaves_the_queue():
    async def scenario(batcher, doubler):
        first, (gone, stays) = await submit_behind_a_running_batch(batcher, doubler, [1, 2])
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert batcher.waiting == 1
        doubler.gate.set()
        return await asyncio.gather(first, stays)

    answers, batches = run(scenario, wait_timeout_s=0)
    assert answers == [1, 5]
    assert batches == [[0], [2]]


@pytest.mark.parametrize("item", [1, 13])
def test_an_item_cancelled_in_a_running_batch_disturbs_nobody(item):
    async def scenario(batcher, doubler):
        doubler.gate.clear()
        task = asyncio.create_task(batcher.submit(item))
        await asyncio.to_thread(doubler.started.wait, FOREVER_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        doubler.gate.set()
        return await batcher.submit(2)

    answer, batches = run(scenario, wait_timeout_s=0)
    assert answer == 5
    assert batches == [[item], [2]]


def test_closing_answers_what_was_accepted_and_refuses_the_rest():
    async def scenario(batcher, doubler):
        first, tasks = await submit_behind_a_running_batch(batcher, doubler, [1, 2, 3, 4, 5])
        closing = asyncio.create_task(batcher.close())
        while batcher.healthy:
            await asyncio.sleep(0)
        with pytest.raises(ServiceError, match="shutting down"):
            await batcher.submit(6)
        doubler.gate.set()
        await closing
        return [task.result() for task in (first, *tasks)]

    answers, batches = run(scenario, wait_timeout_s=0)
    assert answers == [1, 3, 5, 7, 9, 11]
    assert batches == [[0], [1, 2, 3, 4], [5]]


def test_closing_sends_off_what_still_waits_for_company():
    async def scenario(batcher, _):
        task = asyncio.create_task(batcher.submit(1))
        while not batcher.waiting:
            await asyncio.sleep(0)
        await batcher.close()
        return task.result()

    assert run(scenario) == (3, [[1]])


def test_a_batcher_that_was_never_used_closes():
    async def scenario(batcher, _):
        return batcher.healthy

    assert run(scenario) == (True, [])
