import io
import threading

import pytest
from rich.console import Console

from appliance.annotations.reading import read_in_order, with_bar


@pytest.mark.parametrize("root", ["folder", "s3://bucket/folder"])
def test_results_come_in_order_and_few_wait(root):
    started = []
    barrier = threading.Barrier(4)

    def read(item):
        started.append(item)
        if item < 4:
            barrier.wait(timeout=60)  # passes only if four are read at once
        return item * 2

    results = read_in_order(read, range(1000), root=root)
    assert next(results) == 0
    assert len(started) < 200
    assert list(results) == list(range(2, 2000, 2))


def test_the_first_error_in_order_is_raised():
    def read(item):
        if item in (3, 5):
            raise ValueError(item)
        return item

    results = read_in_order(read, range(1000), root="folder")
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="3"):
        next(results)


def test_bar_appears_only_after_a_while_and_only_to_people():
    def shown(patience_s, person):
        stream = io.StringIO()
        console = Console(file=stream, force_terminal=person, width=80)
        bar = with_bar(
            iter("abc"), total=3, what="reading set", patience_s=patience_s, console=console
        )
        assert list(bar) == ["a", "b", "c"]
        return stream.getvalue()

    assert "reading set" in shown(patience_s=0, person=True)
    assert shown(patience_s=0, person=False) == ""
    assert shown(patience_s=3600, person=True) == ""


def test_bar_is_written_to_stderr_if_at_all(capsys):
    assert list(with_bar([1, 2], total=2, what="reading", patience_s=0)) == [1, 2]
    assert capsys.readouterr().out == ""
