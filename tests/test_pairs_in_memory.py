"""Loaded pairs make room for others, the least recently used first; one that is in use is never loaded a second time."""

import gc
import weakref

import pytest
import torch
from support.small_models import write_adapter, write_model, write_pair

from mechdiff.engine import memory
from mechdiff.models import registry
from mechdiff.models.offload import tensors
from mechdiff.models.registry import load_pair

BASE, TUNED, ADAPTER = 'folder = "base"', 'folder = "tuned"', 'adapter = "lora"'
KINDS = ((BASE, TUNED), (TUNED, BASE), (BASE, ADAPTER))


@pytest.fixture
def room(tmp_path, own_store):
    """A model, a full fine-tune of it, and an adapter on it; nothing loaded before or after."""
    write_model(tmp_path / "base", 0)
    write_model(tmp_path / "tuned", 1)
    write_adapter(tmp_path / "lora", tmp_path / "base", 1)
    registry.unload()
    yield tmp_path
    registry.unload()


def load(room, base, tuned, options=""):
    return load_pair(write_pair(room, base, tuned, options), "cpu")


@pytest.fixture
def limit(monkeypatch):
    """Sets the bytes that pairs may take."""
    return lambda size: monkeypatch.setattr(memory, "room_for_weights", lambda kind: size)


def size_of(*pairs) -> int:
    weights = {name: t for pair in pairs for side in (pair.base, pair.tuned) for name, t in tensors(side.model).items()}
    return sum(tensor.nbytes for tensor in weights.values())


def test_the_size_of_pairs_counts_shared_weights_once(room):
    first, second = (load(room, *kind) for kind in (KINDS[0], KINDS[2]))
    assert registry.pairs_on("cpu", False).nbytes == size_of(first, second) < 1.7 * size_of(first)


def test_a_pair_that_nobody_uses_makes_room(room, limit):
    limit(1)
    old = load(room, *KINDS[0])
    weights, old = weakref.ref(old.base.model.lm_head.weight), weakref.ref(old)
    new = load(room, *KINDS[2])
    assert old() is None
    assert load_pair(new.pair, "cpu") is new and registry.pairs_on("cpu", False).nbytes == size_of(new)
    gc.collect()
    assert weights() is new.base.model.lm_head.weight or weights() is None


def test_a_pair_in_use_stays(room, limit):
    limit(1)
    used, new = load(room, *KINDS[0]), load(room, *KINDS[2])
    assert load_pair(used.pair, "cpu") is used and load_pair(new.pair, "cpu") is new
    assert used.base.model is new.base.model, "weights in use are not loaded twice either"


def test_within_the_limit_nothing_goes(room):
    loaded = [weakref.ref(load(room, *kind)) for kind in KINDS]
    gc.collect()
    assert all(pair() is not None for pair in loaded)


def test_room_is_made_before_the_weights_are_read(room, limit, monkeypatch):
    first = weakref.ref(load(room, *KINDS[0]))
    limit(registry.pairs_on("cpu", False).nbytes)
    read = registry.load_weights

    def reading(*args):
        assert first() is None, "the pair before it is still in memory"
        return read(*args)

    monkeypatch.setattr(registry, "load_weights", reading)
    load(room, BASE, TUNED, 'dtype = "bfloat16"')
    assert first() is None


def test_what_is_remembered_of_prompts_has_a_limit(room):
    loaded = load(room, *KINDS[0])
    loaded.tokens._ids.limit = 1000
    ids = [loaded.tokens.encode(f"w{i} w{i + 1}", "base") for i in range(50)]
    assert ids == [loaded.tokenizers.encode(f"w{i} w{i + 1}", "base") for i in range(50)]
    assert 0 < loaded.tokens._ids.nbytes <= 1000


def test_unload_forgets_a_pair_though_it_is_in_use(room):
    loaded = load(room, *KINDS[0])
    registry.unload()
    again = load_pair(loaded.pair, "cpu")
    assert again is not loaded and torch.equal(again.base.model.lm_head.weight, loaded.base.model.lm_head.weight)
