"""The disk cache: what it gives back, what its keys hold, and what damage, other processes and a full disk do to it."""

import errno
import multiprocessing
import pickle
import sqlite3
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor

import diskcache
import numpy as np
import pandas as pd
import pytest

from mechdiff.common import cache as store
from mechdiff.common.cache import Store, key
from mechdiff.common.errors import UserError

LARGE = 150_000  # bytes: diskcache puts such a value in a file of its own


@pytest.fixture
def cache(tmp_path):
    return Store(tmp_path / "cache")


def reopened(cache: Store) -> Store:
    cache._cache.close()
    return Store(cache.folder)


def large(seed=0) -> dict:
    return {"x": np.random.default_rng(seed).integers(0, 256, LARGE, dtype=np.uint8)}


def value_file(cache: Store):
    (path,) = cache.folder.rglob("*.val")
    return path


def test_arrays_come_back_with_dtype_and_shape(cache):
    arrays = {"a": np.arange(6, dtype=np.float16).reshape(2, 3), "b": np.array([np.nan, -0.0, np.inf]), "empty": np.zeros((0, 4))}
    arrays["view"] = np.arange(12).reshape(3, 4).T[::2]
    cache.put_arrays("k", arrays)
    copies = reopened(cache).arrays("k")
    assert copies.keys() == arrays.keys()
    for label, array in arrays.items():
        assert copies[label].dtype == array.dtype
        np.testing.assert_array_equal(copies[label], array)


def test_tables_and_texts_come_back(cache):
    table = pd.DataFrame({"layer": [0, 1], "stream": ["resid_post", "heads"], "kl": [0.25, np.nan]})
    cache.put_table("table", table)
    cache.put_text("text", "Қазақша\n")
    again = reopened(cache)
    pd.testing.assert_frame_equal(again.table("table"), table)
    assert again.text("text") == "Қазақша\n"


def test_what_was_never_stored_is_missing(cache):
    assert cache.arrays("k") is None and cache.table("k") is None and cache.text("k") is None and not cache.has("k")


PARTS = {"dtype": "float32", "device": "cpu", "template": "auto", "texts": "abc", "kernel": "sdpa", "layers": (0, 1)}


@pytest.mark.parametrize(("part", "value"), [*zip(PARTS, ("bfloat16", "cuda", "none", "abd", "eager", (1, 0))), ("more", 1)])
def test_a_key_changes_with_every_part(part, value):
    assert key(**PARTS | {part: value}) != key(**PARTS)


def test_a_key_changes_with_the_format_number_and_not_with_the_order_of_its_parts(monkeypatch):
    before = key(**PARTS)
    assert key(**dict(reversed(PARTS.items()))) == before
    monkeypatch.setattr(store, "FORMAT", store.FORMAT + 1)
    assert key(**PARTS) != before


def cut(path):
    path.write_bytes(path.read_bytes()[: LARGE // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, empty, lambda path: path.unlink()], ids=["cut", "flipped", "empty", "gone"])
def test_a_damaged_value_reads_as_missing_and_can_be_written_again(cache, damage):
    cache.put_arrays("k", large())
    damage(value_file(cache))
    assert cache.arrays("k") is None
    cache.put_arrays("k", large(1))
    np.testing.assert_array_equal(cache.arrays("k")["x"], large(1)["x"])


@pytest.mark.parametrize("place", [0, 4096 * 3], ids=["header", "pages"])
def test_a_damaged_index_reads_as_missing_and_can_be_written_again(cache, place):
    for number in range(200):
        cache.put_text(f"k{number}", "x" * 1000)
    cache._cache.close()
    index = cache.folder / "cache.db"
    content = bytearray(index.read_bytes())
    content[place:] = bytes(byte ^ 0x5A for byte in content[place:])
    index.write_bytes(content)
    again = Store(cache.folder)
    assert again.text("k7") is None
    again.put_text("k7", "new")
    assert reopened(again).text("k7") == "new"


class Bomb:
    """Creates a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("mode", [1, 2, 3, 4])
def test_a_planted_pickle_is_never_loaded(cache, tmp_path, mode):
    mark = tmp_path / "unpickled"
    cache.put_text("k", "honest")
    cache._cache.close()
    planted = pickle.dumps(Bomb(mark))
    with sqlite3.connect(cache.folder / "cache.db") as database:
        database.execute("UPDATE Cache SET mode = ?, value = ?, filename = NULL", (mode, planted))
        row = database.execute("SELECT store_time, access_time, tag, size FROM Cache").fetchone()
        sql = "INSERT INTO Cache (key, raw, store_time, access_time, tag, size, mode, value) VALUES (?, 0, ?, ?, ?, ?, 4, ?)"
        database.execute(sql, (planted, *row, planted))
    again = Store(cache.folder)
    assert again.text("k") is None and again.arrays("k") is None and not again.has(planted.hex())
    again.put_text("k", "honest again")
    assert again.text("k") == "honest again"
    assert not mark.exists()
    pickle.loads(planted).close()  # noqa: S301  the trap itself works
    assert mark.exists()


@pytest.mark.parametrize("value", ["text", {"a": 1}, 3])
def test_nothing_but_bytes_is_ever_written(cache, value):
    with pytest.raises(TypeError, match="bytes"):
        cache._cache.set("k", value)
    with pytest.raises(TypeError, match="text"):
        cache._cache.set(("k", 1), b"value")


def write_and_read(folder, worker):
    """The numbers of the values that did not come back."""
    cache, lost = Store(folder), []
    for number in range(60):
        cache.put_arrays(f"{worker}-{number}", {"x": np.full(20_000 if number % 10 == 0 else 10, worker)})
        cache.put_text("shared", str(number))
        if cache.arrays(f"{worker}-{number}")["x"][-1] != worker or cache.text("shared") is None:
            lost.append(number)
    return lost


@pytest.mark.slow
def test_two_processes_can_write_and_read_one_folder(tmp_path, monkeypatch):
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)  # a page tested before: each process would draw it
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert list(pool.map(write_and_read, (tmp_path, tmp_path), (1, 2))) == [[], []]
    cache = Store(tmp_path)
    assert all(cache.arrays(f"{worker}-{number}")["x"][0] == worker for worker in (1, 2) for number in range(60))


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    sqlite3.OperationalError("database or disk is full"),
    diskcache.Timeout(),
]


@pytest.mark.parametrize("error", FULL, ids=["file", "index", "timeout"])
def test_a_full_disk_warns_once_and_goes_on(cache, monkeypatch, error):
    def refuse(*args, **kwargs):
        raise error

    cache.put_text("before", "kept")
    monkeypatch.setattr(cache._cache, "set", refuse)
    with pytest.warns(UserWarning, match="not stored on disk.*Free space"):
        cache.put_text("k", "value")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.put_arrays("k2", {"x": np.zeros(3)})
    assert cache.full and cache.text("k") is None and cache.text("before") == "kept"


def test_a_busy_or_full_disk_at_the_start_is_told_and_the_index_stays(cache, monkeypatch):
    def refuse(*args, **kwargs):
        raise sqlite3.OperationalError("database or disk is full")

    cache.put_text("k", "value")
    with monkeypatch.context() as patch, pytest.raises(UserError, match=r"disk is full\n.*MECHDIFF_CACHE"):
        patch.setattr(diskcache, "Cache", refuse)
        Store(cache.folder)
    assert reopened(cache).text("k") == "value"


def test_the_oldest_values_go_when_the_size_limit_is_reached(tmp_path):
    limit = 20 * LARGE  # diskcache drops ten values at a time
    cache = Store(tmp_path, size_limit=limit)
    for number in range(60):
        cache.put_arrays(f"k{number}", large(number))
    assert limit - 11 * LARGE < cache.size <= limit + LARGE
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.val")) <= limit + LARGE
    assert cache.arrays("k59") is not None and cache.arrays("k0") is None
