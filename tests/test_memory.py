"""When memory runs out: pieces are halved, clean passes move away, models take turns, and the numbers stay the same."""

import dataclasses
import random
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from support.sweeping import SMALL, tables
from transformers.models.llama.modeling_llama import LlamaMLP

import mechdiff
from mechdiff import Run, UserError, questions
from mechdiff.engine import memory
from mechdiff.engine.anatomy import Anatomy
from mechdiff.engine.memory import Budget, PassCache, in_parts
from mechdiff.models import offload
from mechdiff.models.registry import load_pair, unload
from mechdiff.questions.prompt.reading import Reading
from mechdiff.questions.shared import measure
from mechdiff.study import sweep_plan

FULL = torch.OutOfMemoryError("out of memory")
META = torch.device("meta")  # a device that is not main memory, and has none
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh():
    """Budgets are measured anew, and nothing that shrank them is left behind."""
    memory.forget()
    unload()
    yield
    memory.forget()
    unload()


@pytest.mark.parametrize("most", [1, 2, 3, 100])
def test_halving_covers_every_item_once_in_order(most):
    sizes = []

    def work(chunk):
        sizes.append(len(chunk))
        if len(chunk) > most:
            raise FULL
        return [10 * item for item in chunk]

    parts = list(in_parts(work, list(range(11)), CPU))
    assert [item for chunk, _ in parts for item in chunk] == list(range(11))
    assert [value for _, values in parts for value in values] == [10 * item for item in range(11)]
    assert max(len(chunk) for chunk, _ in parts) <= most and sizes[0] == 11


def test_one_item_that_never_fits_is_an_error_and_one_that_fits_later_is_not():
    def never(chunk):
        raise FULL

    with pytest.raises(torch.OutOfMemoryError):
        list(in_parts(never, [1], CPU))
    left = [FULL, FULL]

    def later(chunk):
        if left:
            raise left.pop()
        return "done"

    assert list(in_parts(later, [1], CPU)) == [([1], "done")]


def test_a_budget_gives_powers_of_two_and_shrinks_by_half():
    budget = Budget(META, 8 << 30)
    assert budget.rows(1 << 20, 1 << 16) == 2048 == budget.rows((1 << 20) - 900, 1 << 16)
    assert budget.rows(1, 512) == 512 and budget.rows(1 << 40, 512) == 16
    budget.shrink()
    assert budget.rows(1 << 20, 1 << 16) == 1024
    for _ in range(60):
        budget.shrink()
    assert budget.rows(1 << 20, 1 << 16) == 16, "never less than what is worth a walk"


@dataclass
class Pass:
    """A clean pass of a given size."""

    name: str
    nbytes: int
    device: torch.device = META
    moves: int = 0

    def to(self, device):
        return dataclasses.replace(self, device=device, moves=self.moves + 1)


@pytest.fixture
def room(monkeypatch):
    """A device with room for 100 bytes of passes, and main memory for 250."""
    monkeypatch.setitem(memory._budgets, META, Budget(META, 200))
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: type("Memory", (), {"total": 250 / memory.HOST, "available": 0}))
    return PassCache()


def test_passes_leave_for_main_memory_and_come_back_and_are_at_last_forgotten(room):
    for name in "abcde":
        room.put(name, Pass(name, 40))
    assert {name: (trace.device.type, trace.moves) for name in "ed" if (trace := room.get(name))} == {
        "e": ("meta", 0),
        "d": ("meta", 0),
    }
    back = room.get("a")
    assert back.device == META and back.moves == 2, "away and back"
    for name in "fghijklm":
        room.put(name, Pass(name, 40))
    assert room.get("a") is None and room.get("m").moves == 0
    assert len(room.names()) == 2 + 6, "two of 40 bytes near, six of 40 far"


def test_running_out_sends_every_pass_away(room):
    room.put("a", Pass("a", 40))
    memory.budget(META).shrink()
    assert room.get("a").moves == 2


SMALLER = {
    "behaviour": False,
    "readings": ("train", "difference"),
    "maps": ("ridge",),
    "sets": ("greedy",),
    "moved": ("ridge",),
    "alphas": (),
    "ranks": ("4",),
}


def test_passes_are_sent_away_after_another_pair_was_loaded_too(room, monkeypatch):
    room.put("a", Pass("a", 40))
    monkeypatch.setitem(memory._budgets, META, Budget(META, 200))  # measured anew
    room.put("b", Pass("b", 40))
    memory.budget(META).shrink()
    assert room.get("a").moves == room.get("b").moves == 2


@pytest.mark.parametrize(("limit", "said"), [("much", "not a number of GiB"), ("0.1", "the weights alone take")])
def test_a_limit_that_cannot_be_is_a_sentence(monkeypatch, limit, said):
    monkeypatch.setenv(memory.VARIABLE, limit)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2 << 30)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3 << 30)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 << 30, 20 << 30))
    with pytest.raises(UserError, match=f"{said}[^$]*Try:  MECHDIFF_MEMORY="):
        memory.allowed(torch.device("cuda"))


def test_a_limit_leaves_what_the_weights_do_not_take(monkeypatch):
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2 << 30)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3 << 30)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (9 << 30, 20 << 30))
    assert memory.allowed(torch.device("cuda")) == 8 << 30, "80 % of what is free, with what torch has in reserve"
    monkeypatch.setitem(memory._expected, torch.device("cuda"), 4 << 30)
    assert memory.allowed(torch.device("cuda")) == int(0.8 * (8 << 30)), "a model that is not there yet has its place"
    monkeypatch.setenv(memory.VARIABLE, "6")
    assert memory.allowed(torch.device("cuda")) == 2 << 30


def test_a_sweep_that_runs_out_of_memory_at_random_ends_in_the_same_tables(small, tmp_path, monkeypatch):
    monkeypatch.setitem(sweep_plan.GRIDS, "small", dataclasses.replace(SMALL, **SMALLER))
    sweep, _ = small
    sweep(tmp_path / "whole")
    questions.default().clear()
    unload()
    chance, plain, unembed, thrown = random.Random(0), LlamaMLP.forward, Anatomy.logits, []

    def mlp(self, states):
        if states.shape[:-1].numel() > 150 or chance.random() < 0.02:
            thrown.append("mlp")
            raise FULL
        return plain(self, states)

    def logits(self, states):
        if len(states) > 40 or chance.random() < 0.02:
            thrown.append("logits")
            raise FULL
        return unembed(self, states)

    monkeypatch.setattr(LlamaMLP, "forward", mlp)
    monkeypatch.setattr(Anatomy, "logits", logits)
    sweep(tmp_path / "crowded")
    assert thrown.count("mlp") > 20 < thrown.count("logits"), "it did run out"
    whole, crowded = tables(tmp_path / "whole"), tables(tmp_path / "crowded")
    assert whole.keys() == crowded.keys() and len(whole) > 8
    for name in whole:
        assert len(whole[name]) == len(crowded[name]), name
        assert not (crowded[name].isna() & whole[name].notna()).to_numpy().any(), f"{name}: something is missing"
        if not name.endswith("_summary.parquet"):
            numbers = whole[name].select_dtypes("number").columns
            np.testing.assert_allclose(crowded[name][numbers], whole[name][numbers], rtol=2e-3, atol=1e-5, err_msg=name)


QUESTIONS = (
    Run("patch", streams=("resid_post", "heads"), controls=("self", "mean")),
    Run("transplant", streams=("attn_out", "mlp_out", "heads")),
    Run("rank", map="ridge", layers=(1,), ranks=("2", "full"), direction="tuned-to-base"),
    Run("drift"),
    Run("patch", layers=(2,), back=1, horizon=3),
    Run("behaviour", layers=(2,)),
)


@pytest.mark.slow
def test_models_that_take_turns_give_the_same_numbers(study, monkeypatch):
    """Weights that are away hold no number, so that whatever ran with them would show."""
    runs = [dataclasses.replace(run, **study) for run in QUESTIONS]
    requests = [*runs, Reading(runs[0])]
    expected = [mechdiff.run(run) for run in requests]
    questions.default().clear()
    unload()
    monkeypatch.setattr(offload, "away", lambda master: torch.full_like(master, torch.nan))
    loaded = load_pair(study["pair"], "cpu")
    loaded.placement.take_turns("cpu")
    for request, table in zip(requests, expected):
        pd.testing.assert_frame_equal(mechdiff.run(request), table, check_exact=False, atol=1e-6, obj=repr(request)[:60])
    there = {side: not bool(getattr(loaded, side).model.lm_head.weight.isnan().any()) for side in ("base", "tuned")}
    assert sum(there.values()) == 1, "one model at a time"
    assert any("take turns" in notice for notice in loaded.notices)


def test_models_change_places_once_and_not_for_every_block(pair, own_store, monkeypatch):
    monkeypatch.setattr(measure, "CPU_PIECE", 256)  # more rows than one pass holds: block by block
    loaded, changes = load_pair(pair["pair"], "cpu"), []
    loaded.placement.take_turns("cpu")
    monkeypatch.setattr(offload, "release", lambda device: changes.append(set(loaded.placement.offload.here)))
    mechdiff.run(Run("heads", **pair))
    assert len(changes) == 3, "the recipient for the check, the donor's passes, the recipient again"


def test_offload_is_asked_for_by_a_bare_flag_and_does_not_change_what_is_kept(study):
    from mechdiff.cli.run import options_of
    from mechdiff.questions.patch import Patch
    from mechdiff.questions.shared.identity import Identity

    assert options_of(Patch).parse_args(["--offload"]).offload == "on"
    with pytest.raises(UserError, match="auto, on, off"):
        Run("patch", offload="perhaps")
    on, off = (Identity(Run("patch", offload=how, **study)).pair for how in ("on", "off"))
    assert on == off
