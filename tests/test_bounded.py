"""Collections that live as long as the process: a limit in bytes, the least recently used dropped first, all emptied at once."""

import threading

import pytest

import mechdiff
from mechdiff import Run
from mechdiff.common import bounded, cache
from mechdiff.common.bounded import Bounded
from mechdiff.questions.shared import fitted_maps


def test_beyond_the_limit_the_least_recently_used_go():
    values = Bounded(30, len)
    for name in "abc":
        values.put(name, name * 10)
    assert values.get("a") == "a" * 10  # used again: b is the oldest now
    values.put("d", "d" * 10)
    assert [values.get(name) is None for name in "abcd"] == [False, True, False, False]
    assert values.nbytes == 30


def test_a_value_put_again_counts_once():
    values = Bounded(30, len)
    for size in (10, 20, 5):
        values.put("a", "x" * size)
    assert (values.nbytes, len(values), values.get("a")) == (5, 1, "xxxxx")


def test_the_newest_stays_however_large_it_is():
    values = Bounded(30, len)
    values.put("small", "x")
    values.put("large", "x" * 100)
    assert values.get("small") is None and values.get("large") == "x" * 100


@pytest.mark.parametrize(("size", "left"), [(0, 3), (1, 2), (11, 1), (21, 0), (500, 0)])
def test_room_is_made_before_something_large_comes(size, left):
    values = Bounded(30, len)
    for name in "abc":
        values.put(name, name * 10)
    values.make_room(size)
    assert len(values) == left and values.nbytes == 10 * left


def test_threads_leave_the_count_right():
    values = Bounded(1000, len)

    def work(offset):
        for number in range(2000):
            values.put((number + offset) % 37, "x" * (number % 90))
            values.get(number % 37)

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    present = [value for name in range(37) if (value := values.get(name)) is not None]
    assert values.nbytes == sum(map(len, present)) <= 1000


def test_one_call_empties_all():
    first, second = Bounded(30, len), Bounded(30, len)
    first.put("a", "a")
    second.put("b", "b")
    bounded.clear_all()
    assert len(first) == len(second) == first.nbytes == second.nbytes == 0


def test_maps_that_make_room_while_a_request_runs_change_nothing(study, tmp_path, monkeypatch):
    """Maps that a request found in memory stay with it, though others push them out before it fits the rest."""
    few, many = (Run("transport", map="ridge", layers=layers, **study) for layers in ((1,), (1, 2)))
    find, held = fitted_maps.FittedMaps.in_memory, []

    def push_out(self, sites):
        cached = find(self, sites)
        held.append(len(cached))
        bounded.clear_all()
        return cached

    def effects(name, run):
        monkeypatch.setattr(cache, "_default", cache.Store(tmp_path / name))
        return mechdiff.run(run)["kl"].to_list()

    expected = effects("first", many)
    bounded.clear_all()
    effects("second", few)
    monkeypatch.setattr(fitted_maps.FittedMaps, "in_memory", push_out)
    assert effects("third", many) == expected and held[0] > 0
