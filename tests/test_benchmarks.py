"""The benchmark beside other libraries: its arithmetic, and that everyone gives mechdiff's own answers on a tiny model."""

import json

import pytest
import torch

from benchmarks.__main__ import chosen, main, table
from benchmarks.peers import BATCHED, ONE, PEERS, SPARED
from benchmarks.timing import FLOOR, Mechdiff, Rounds, expected, figures, largest_difference, precise_kl
from benchmarks.work import OfShape, kl, spread
from mechdiff.common.errors import UserError

CELLS = [(layer, head) for layer in range(4) for head in range(4)]


@pytest.fixture(scope="module")
def work():
    return OfShape("tiny", 2, 12, "cpu", "float32")


def test_a_sample_is_evenly_spread_and_reaches_both_ends():
    assert spread(CELLS, 4) == [CELLS[0], CELLS[5], CELLS[10], CELLS[15]]
    assert spread(CELLS, 99) == CELLS


def test_a_difference_is_relative_down_to_the_floor():
    ours = {"large": 0.5, "small": FLOOR / 100, "alone": 9.0}
    assert largest_difference({"large": 0.5005, "small": FLOOR / 50}, ours) == pytest.approx(0.01)
    assert largest_difference({"large": 0.6}, ours) == pytest.approx(0.2)


def test_seconds_are_a_prompt_for_the_full_sweep():
    rounds = Rounds(2, 4)
    rounds.seconds = {
        ("mechdiff", "clean"): [0.1, 0.3],
        ("mechdiff", "cell"): [0.001, 0.003],
        ("plain hooks", "clean"): [0.5],
        ("plain hooks", ONE): [0.1, 0.3],
    }
    rounds.answers["plain hooks", ONE] = {(0, 1, 2): 0.5}
    ours, line = figures(rounds, {(0, 1, 2): 0.4}, 100)
    assert (ours["sweep_s"], ours["clean_s"]) == pytest.approx((0.2, 0.2))
    assert (line["sweep_s"], line["ratio"], line["ratio_with_clean"]) == pytest.approx((20, 100, 20.5 / 0.4))
    assert (line["difference_from_mechdiff"], line["difference_from_hooks"]) == pytest.approx((0.25, 0))


@pytest.mark.parametrize("name", PEERS)
def test_every_form_gives_mechdiffs_answers(name, work):
    package = {"nnsight": "nnsight", "transformerlens": "transformer_lens"}.get(name)
    if package:
        pytest.importorskip(package, reason="pip install -r benchmarks/requirements.txt")
    peer, ours = PEERS[name](work), Mechdiff(work).answers(CELLS)
    assert ours.max() > 1e-3, "heads must matter for the test to mean something"
    for prompt in range(2):
        with torch.no_grad():
            peer.clean(prompt)
            for form in peer.forms:
                divergences = precise_kl(peer.work(form, CELLS[:7]), peer.clean_logits)
                torch.testing.assert_close(divergences, ours[:7, prompt], rtol=1e-3, atol=1e-7)


def test_kl_is_that_of_torch():
    patched, clean = torch.randn(3, 50), torch.randn(1, 50)
    reference = torch.nn.functional.kl_div(
        clean.log_softmax(-1).expand(3, -1), patched.log_softmax(-1), reduction="none", log_target=True
    )
    torch.testing.assert_close(kl(patched, clean), reference.sum(-1))


def test_everyone_does_cells_of_every_prompt(work):
    rounds, engine, peer = Rounds(3, 4), Mechdiff(work), PEERS["hooks"](work)
    for prompt in range(2):
        rounds.mechdiff(engine)
        rounds.peer(peer, prompt, engine.cells)
    assert len(rounds.answers["plain hooks", ONE]) == 2 * 3 and len(rounds.answers["plain hooks", BATCHED]) == 2 * 8
    ours = expected(engine, rounds)
    assert rounds.answers["plain hooks", SPARED].keys() <= ours.keys()
    assert largest_difference(rounds.answers["plain hooks", BATCHED], ours) < 1e-3


def test_the_command_prints_a_table_and_writes_its_figures(tmp_path, monkeypatch, capsys):
    arguments = "--shape tiny --device cpu --peers hooks --prompts 2 --tokens 8 --cells 2 --batch 4 --out"
    out = tmp_path / "peers.json"
    monkeypatch.setattr("sys.argv", ["benchmarks", *arguments.split(), str(out)])
    assert main() == 0
    report = json.loads(out.read_text())
    assert [line["library"] for line in report["forms"]] == ["mechdiff", *["plain hooks"] * 3] and report["cells"] == 16
    said = capsys.readouterr().out
    assert table(report) in said and "| plain hooks, batched, sparing |" in said


@pytest.mark.parametrize(("arguments", "says"), [("--prompts 0", "at least 1"), ("--out no/such/f.json", "mkdir -p no/such")])
def test_what_cannot_be_is_said_at_once(arguments, says, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmarks", "--shape", "tiny", *arguments.split()])
    assert main() == 2 and says in capsys.readouterr().err


def test_an_unknown_library_is_a_sentence():
    with pytest.raises(UserError, match="hook"):
        chosen("hook")
