"""The pre-flight card: what it says is what the loaded pair is, and it says it without loading any weights."""

import shutil

import pytest
import torch
from support.small_models import write_adapter, write_model, write_pair, write_tokenizer

from mechdiff import questions
from mechdiff.__main__ import main
from mechdiff.engine.trace import run_trace
from mechdiff.inputs import prompts
from mechdiff.inputs.pair_file import read_pair
from mechdiff.models import registry
from mechdiff.models.registry import load_pair
from mechdiff.questions import Run
from mechdiff.questions.diagnostics.parity_check import Parity
from mechdiff.study import cost_estimate
from mechdiff.study.cost_estimate import pass_bytes, weight_bytes

LONG = {"max_position_embeddings": 2048}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("card")
    write_model(folder / "base", 0, **LONG)
    write_model(folder / "tuned", 1, **LONG)
    write_model(folder / "wide", 1, hidden_size=48, head_dim=12, **LONG)
    write_adapter(folder / "lora", folder / "base")
    return folder


@pytest.fixture
def room(made, tmp_path, own_store):
    registry.unload()
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def pair_of(room, tuned='folder = "tuned"', options="", base='folder = "base"'):
    return read_pair(write_pair(room, base, tuned, options, domain=prompts.domains()[0]))


@pytest.fixture
def no_weights(monkeypatch):
    monkeypatch.setattr(registry, "_load", lambda *_: pytest.fail("weights were loaded"))


def test_a_card_says_what_the_models_are(room, no_weights):
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "w0": 4, "other": 5}
    write_tokenizer(room / "tuned", vocabulary)
    card = cost_estimate.preflight_card(pair_of(room), device="cpu")
    expected = {
        "architecture": ("llama (LlamaForCausalLM)",) * 2,
        "layers": ("4", "4"),
        "width": ("32", "32"),
        "heads a layer": ("4", "4"),
        "head width": ("8", "8"),
        "heads that share keys": ("2 groups of 2",) * 2,
        "longest prompt": ("2,048",) * 2,
        "sliding window": ("none", "none"),
        "tied embeddings": ("no", "no"),
        "rows of the embedding": ("97", "97"),
        "tokens in both": ("5, 5.2%", "5, 83.3%"),
        "begins with": ("<s>", "<s>"),
        "chat template": ("none", "none"),
        "special tokens": ("3: <pad> <s> </s>",) * 2,
    }
    assert {name: card.lines[name] for name in expected} == expected
    assert card.lines["model in"] == (str(room / "base"), str(room / "tuned"))
    assert any("tokenizers differ" in note for note in card.notes) and not card.faults
    assert set(card.questions.values()) == {None} and card.cells[1] == card.cells[0] > 1000 and card.seconds is None
    assert card.table().set_index("").loc["tokens in both", "same?"] == "differs"


def parameter_bytes(*anatomies) -> int:
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for a in anatomies for p in a.model.parameters()}
    return sum(storages.values())


@pytest.mark.parametrize("tuned", ['folder = "tuned"', 'adapter = "lora"'])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_memory_it_names_is_the_memory_it_takes(room, tuned, dtype):
    pair = pair_of(room, tuned)
    card = cost_estimate.preflight_card(pair, device="cpu", dtype=dtype)
    loaded = load_pair(pair, "cpu", dtype)
    weights = sum(size for name, size in card.memory.items() if not name.startswith("clean"))
    assert weights == pytest.approx(parameter_bytes(loaded.base, loaded.tuned), rel=1e-3)
    assert ("weights, once for both" in card.memory) == ("adapter" in tuned)
    texts = [prompt.text for prompt in prompts.read_domain(pair.domain, "val")[: prompts.BLOCK]]
    ids = {side: [loaded.tokenizers.encode(text, side) for text in texts] for side in ("base", "tuned")}
    taken = sum(run_trace(getattr(loaded, side), ids[side]).nbytes for side in ids)
    assert card.memory[f"clean passes of {len(texts)} prompts"] == taken
    assert card.needed == sum(card.memory.values()) < card.free


def test_a_quantized_pair_is_counted_in_the_bits_that_it_asks_for(room):
    plain, eight, four = (pair_of(room, options=option) for option in ("", 'quantization = "8bit"', 'quantization = "4bit"'))
    sizes = [weight_bytes(pair.base, pair, "float32") for pair in (plain, eight, four)]
    numbers = sum(p.numel() for name, p in load_pair(plain, "cpu").base.model.named_parameters() if "proj" in name)
    assert sizes[0] - sizes[1] == 3 * numbers and sizes[0] - sizes[2] == 3.5 * numbers


def test_a_donors_pass_keeps_no_keys(room):
    shape = pair_of(room).shape("base")
    trace = run_trace(load_pair(pair_of(room), "cpu").base, [[3, 4, 5], [6, 7, 8, 9]], keep_calls=False)
    assert pass_bytes(shape, [3, 4], 4, recipient=False) == trace.nbytes


def test_two_models_that_do_not_fit_have_a_card_with_what_is_left(room, no_weights, capsys):
    pair = pair_of(room, 'folder = "wide"')
    card = cost_estimate.preflight_card(pair, device="cpu")
    assert [name for name, why in card.questions.items() if why is None] == ["drift"]
    assert "a width of 32, the tuned model 48" in card.questions["patch"] and card.cells is None
    assert main(["check", "--pair", pair.path]) == 0
    out = capsys.readouterr().out
    assert "Available: drift\n" in out and "patch" in out.partition("Not available: ")[2].partition(".")[0]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda room: shutil.rmtree(room / "tuned"), "There is no model in"),
        (lambda room: (room / "tuned/model.safetensors").write_bytes(b"0" * 40), "not a readable safetensors file"),
        (lambda room: [path.unlink() for path in (room / "tuned").glob("tokenizer*")], "has no tokenizer"),
        (
            lambda room: (room / "tuned/config.json").write_text('{"model_type": "frob"}'),
            "number of layers",
        ),
    ],
)
def test_a_pair_that_is_not_here_or_not_whole_has_a_card_that_says_so(room, no_weights, spoil, says, capsys):
    pair = pair_of(room)
    spoil(room)
    assert main(["check", "--pair", pair.path, "--no-run"]) == 2
    said = capsys.readouterr().err
    assert says in said and "Try:" in said and "Traceback" not in said
    assert all(why for why in cost_estimate.preflight_card(pair).questions.values())


def test_the_check_compares_rows_with_hooks_and_then_knows_how_long_a_sweep_takes(room, capsys):
    pair = pair_of(room)
    assert main(["check", "--pair", pair.path, "--device", "cpu", "--no-run"]) == 0
    assert "no time estimate until the check has run" in capsys.readouterr().out
    assert main(["check", "--pair", pair.path, "--device", "cpu"]) == 0
    assert "extrapolated from the check" in capsys.readouterr().out
    task = questions.task(Parity(Run("patch", pair=pair.path, device="cpu")))
    table = task.table().set_index("model")
    assert task.done == task.total and list(table.index) == ["base", "tuned"] and set(table["runs by"]) == {"rows"}
    loaded = load_pair(pair.path, "cpu")
    assert table["difference"].to_dict() == pytest.approx(loaded.parity) and table["difference"].max() < 1e-4
    card = cost_estimate.preflight_card(pair, device="cpu")
    assert card.seconds == pytest.approx(
        450 * table["seconds a prompt"].mean() + card.cells[1] * table["seconds a cell"].mean(), rel=1e-6
    )


def test_a_wrong_engine_is_found_and_goes_by_hooks(room, monkeypatch):
    from mechdiff.engine import rows

    pair = pair_of(room)
    attention = rows.row_attention
    monkeypatch.setitem(rows.AttentionInterface._global_mapping, rows.KERNEL, lambda *a, **k: (attention(*a, **k)[0] * 1.5, None))
    task = questions.task(Parity(Run("patch", pair=pair.path, device="cpu")))
    for _ in task.steps():
        pass
    table = task.table()
    assert set(table["runs by"]) == {"hooks"} and (table["difference"] > table["limit"]).all()
    assert len(task.notices) == 2 and "runs by plain hooks" in task.notices[0]
    assert torch.tensor(table["seconds a cell"]).min() > 0
