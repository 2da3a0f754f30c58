"""The command line: a mistake costs one sentence and exit status 2; bench keeps its contract."""

import json
import signal

import pytest
import torch
from support.tiny_pair import write_pair

from mechdiff.__main__ import main
from mechdiff.common.terms import CONTROLS, MAPS, STREAMS
from mechdiff.questions import QUESTIONS

pytestmark = pytest.mark.usefixtures("own_store")
CONTRACT = {"rows_s", "hooks_batch1_s", "hooks_batched_s", "ratio_batch1", "ratio_batched", "max_abs_error"}
CONTRACT |= {"cells", "prompts", "device", "dtype", "versions"}


@pytest.fixture(autouse=True)
def signals_and_threads():
    """main() takes SIGTERM over; and threads only get in each other's way on a model this small."""
    handler, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return str(write_pair(tmp_path_factory.mktemp("pair")))


MISTAKES = {
    "no command": ("", ["required", "pairs,demo,prepare"]),
    "command": ("runn drift", ["'runn'", "run", "sweep", "bench"]),
    "flag": ("run drift --layer-count 3", ["--layer-count"]),
    "question": ("run drfit", ["'drfit'", *QUESTIONS]),
    "pair": ("run drift --pair demo", ["'demo'", "demo-cognitive", "llama-8b-cultural"]),
    "pair file": ("run drift --pair no.toml", ["no.toml", "mechdiff pairs"]),
    "domain": ("run patch --pair PAIR --domain weather", ["'weather'", "cognitive, cognitive@1, cultural"]),
    "layer": ("run patch --pair PAIR --layers 0,4", ["Layer 4", "4 layers, 0 to 3"]),
    "negative layer": ("run patch --pair PAIR --layers=-1", ["Layer -1"]),
    "layer text": ("run patch --pair PAIR --layers first", ["'first'", "--layers all"]),
    "stream": ("run patch --pair PAIR --streams resid", ["'resid'", *STREAMS, "all"]),
    "no stream": ("run patch --pair PAIR --streams ,", ["No stream"]),
    "head": ("run heads --pair PAIR --head-sets 0;6", ["Head 6", "6 heads a layer, 0 to 5"]),
    "head sets": ("run heads --pair PAIR --head-sets 0;;1", ["--head-sets each, all"]),
    "map": ("run patch --pair PAIR --map affine", ["'affine'", *MAPS]),
    "control": ("run patch --pair PAIR --controls placebo", ["'placebo'", *CONTROLS]),
    "direction": ("run patch --pair PAIR --direction up", ["'up'", "base-to-tuned, tuned-to-base"]),
    "blend": ("run heads --pair PAIR --blend half", ["--blend", "'half'"]),
    "limit": ("run patch --pair PAIR --limit many", ["--limit", "'many'"]),
    "no prompts": ("run patch --pair PAIR --limit 0", ["Limit 0"]),
    "too few for CKA": ("run drift --pair PAIR --limit 3", ["at least 4 prompts; there are 3"]),
    "rank": ("run rank --pair PAIR --ranks 1,two", ["'two'", "--ranks 0,1,8,32,full"]),
    "negative rank": ("run rank --pair PAIR --ranks=-1", ["'-1'", "number from 0"]),
    "alpha": ("run rank --pair PAIR --alpha wide", ["'wide'", "--alpha auto,0.8,1.0"]),
    "infinite alpha": ("run transport --pair PAIR --alpha inf", ["'inf'"]),
    "complement": ("run rank --pair PAIR --complement rest", ["'rest'", "mean, own"]),
    "positions": ("run transport --pair PAIR --positions 0", ["Positions 0", "--positions 16"]),
    "shuffled patch": ("run patch --pair PAIR --controls shuffled", ["shuffled", "--map ridge"]),
    "shuffled zscore": ("run transport --pair PAIR --map zscore --controls shuffled", ["zscore", "no pairing"]),
    "transplant stream": ("run transplant --pair PAIR --streams resid_post", ["'resid_post'", "attn_out, mlp_out, heads"]),
    "transplant control": ("run transplant --pair PAIR --controls mean", ["'mean'", "self"]),
    "diagnostics": ("run patch --pair PAIR --diagnostics x.csv", ["no fitted map", "run transport"]),
    "stack": ("run stack --pair PAIR --stack layer=1;layer=7", ["layer '7'", "0 to 3", "--stack"]),
    "stack file": ("run stack --pair PAIR --stack no.toml", ["no.toml cannot be read", "layer=26"]),
    "no stack": ("run stack --pair PAIR", ["No stack", "--stack FILE"]),
    "stack control": ("run stack --pair PAIR --stack layer=1 --controls random", ["'random'", "self"]),
    "back": ("run patch --pair PAIR --back=-2", ["Back -2", "--back 3"]),
    "horizon": ("run heads --pair PAIR --horizon 0", ["Horizon 0", "--horizon 8"]),
    "horizon of a target": ("run patch --pair PAIR --target yes --horizon 2", ["one next token", "--horizon 1"]),
    "seed": ("run patch --pair PAIR --seed 1.5", ["--seed", "1.5"]),
    "out suffix": ("run patch --pair PAIR --out x.xlsx", ["'x.xlsx'", ".csv or .parquet"]),
    "prompts file": ("run patch --pair PAIR --prompts no.jsonl", ["no.jsonl cannot be read"]),
    "device": ("run patch --pair PAIR --device gpu", ["'gpu'", "auto, cpu, cuda"]),
    "dtype": ("run patch --pair PAIR --dtype fp8", ["'fp8'", "float32, bfloat16, float16"]),
    "foil": ("run patch --pair PAIR --foil no", ["needs a target"]),
    "sweep pair": ("sweep --pair demo", ["'demo'", "demo-cognitive"]),
    "sweep domain": ("sweep --pair PAIR --domain weather", ["'weather'", "cognitive, cognitive@1, cultural"]),
    "sweep grid": ("sweep --pair PAIR --grid huge", ["'huge'", "quick, auto, full"]),
    "sweep without pair": ("sweep", ["--pair"]),
    "planted pairs": ("planted --pairs 0", ["at least one pair"]),
    "bench shape": ("bench --shape huge", ["'huge'", "tiny, llama-8b"]),
    "bench pair": ("bench --pair demo", ["'demo'", "demo-cognitive"]),
    "bench prompts": ("bench --shape tiny --prompts 0", ["at least one prompt"]),
    "bench tokens": ("bench --shape tiny --tokens few", ["--tokens", "'few'"]),
    "bench device": ("bench --shape tiny --device gpu", ["'gpu'", "auto, cpu, cuda"]),
    "bench dtype": ("bench --shape tiny --dtype fp8 --device cpu", ["'fp8'", "float32, bfloat16, float16"]),
    "bench out": ("bench --shape tiny --out no/such/f.json", ["no/such", "mkdir -p no/such"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_costs_one_sentence_and_status_2(mistake, pair, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line, says = MISTAKES[mistake]
    status = main([pair if word == "PAIR" else word for word in line.split()])
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert err.startswith("mechdiff: ") and "Traceback" not in err and "usage:" not in err
    assert len(err.strip().splitlines()) <= 2  # the sentence, and what to try
    for text in says:
        assert text in err


def test_pairs_lists_the_shipped_pairs_and_what_is_missing(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("mechdiff.inputs.pair_file.MODELS", tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert main(["pairs"]) == 0
    out = capsys.readouterr().out
    for name in ("demo-cultural", "demo-cognitive", "llama-8b-cultural", "llama-8b-cognitive"):
        assert sum(line.split()[0] == name for line in out.splitlines()) == 1
    assert out.count("missing: python -m mechdiff demo") == 2
    assert out.count("missing: hf download meta-llama/Llama-3.1-8B-Instruct") == 2


def test_bench_writes_the_contract_and_agrees_with_hooks(capsys, tmp_path):
    file = tmp_path / "f.json"
    words = "bench --shape tiny --prompts 2 --tokens 12 --device cpu --out"
    assert main([*words.split(), str(file)]) == 0
    figures = json.loads(file.read_text())
    assert figures == json.loads(capsys.readouterr().out)
    assert figures.keys() >= CONTRACT
    assert 0 < figures["max_abs_error"] < 1e-3
    assert (figures["cells"], figures["prompts"], figures["dtype"]) == (16, 2, "float32")
    assert figures["device"].startswith("cpu") and {"torch", "transformers"} <= figures["versions"].keys()
    assert figures["ratio_batch1"] == pytest.approx(figures["hooks_batch1_s"] / figures["rows_s"])
    assert figures["ratio_batched"] == pytest.approx(figures["hooks_batched_s"] / figures["rows_s"])


def test_bench_compares_own_rows_with_the_donors_and_with_hooks(capsys):
    words = "bench --own --shape tiny --prompts 2 --tokens 12 --device cpu"
    assert main(words.split()) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["ratio_to_donor"].keys() == {"tensor", "function", "metric"} < figures["rows_per_s"].keys()
    assert 0 < figures["max_abs_error"] < 1e-4 and figures["rows"] == 4 * 3 * 8


@pytest.mark.parametrize("command", [[], ["run"], ["bench"]])
def test_help_is_no_mistake(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0 and "usage:" in capsys.readouterr().out
