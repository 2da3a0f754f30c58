"""Pairs added on this machine: checked first, from the allowed folder alone, found by name, and chosen in the app."""

import tomllib

import pytest
from streamlit.testing.v1 import AppTest
from support.app_page import app_at
from support.small_models import write_adapter, write_gguf, write_model

from mechdiff.__main__ import main
from mechdiff.common.errors import UserError
from mechdiff.inputs import pair_file
from mechdiff.inputs.pair_file import read_pair
from mechdiff.models import gguf, register_pair, registry
from mechdiff.models.register_pair import Given
from mechdiff.models.registry import load_pair

LONG = {"max_position_embeddings": 2048}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The allowed folder."""
    root = tmp_path_factory.mktemp("allowed")
    write_model(root / "base", 0, **LONG)
    write_model(root / "org" / "tuned", 1)
    write_model(root / "deep", 1, num_hidden_layers=6, **LONG)
    write_model(root / "mute", 1, tokenizer=False)
    write_adapter(root / "lora", root / "base")
    write_gguf(root / "base.gguf", root / "base")
    write_model(root.parent / "outside", 2)
    (root / "sly").symlink_to(root.parent / "outside")
    return root


@pytest.fixture(autouse=True)
def root(made, tmp_path, monkeypatch, own_store):
    monkeypatch.setattr(register_pair, "OWN_MODELS", made)
    for module in (register_pair, pair_file):
        monkeypatch.setattr(module, "OWN_PAIRS", tmp_path / "pairs")
    for module in (pair_file, gguf):
        monkeypatch.setattr(module, "MODELS", tmp_path / "converted")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    registry.unload()
    return made


def add(name="mine", base=None, tuned=None, domain="cognitive"):
    return register_pair.add(name, domain, base or Given("base"), tuned or Given("org/tuned"))


def test_an_added_pair_is_found_by_name_and_can_be_studied(root, capsys):
    notes = add()[1]
    assert notes == [] and pair_file.pair_names()[-1] == "mine" == read_pair("mine").argument
    assert (read_pair("mine").base.folder, read_pair("mine").tuned.folder) == (str(root / "base"), str(root / "org/tuned"))
    assert len(load_pair("mine", "cpu").base.layers) == 4
    assert main(["pairs"]) == 0
    listed = capsys.readouterr().out
    assert "mine" in listed and "domain cognitive; your own; ready" in listed


@pytest.mark.parametrize(
    ("base", "tuned"),
    [
        (Given("base"), Given(adapter="lora")),
        (Given("base", adapter="lora"), Given("base")),
        (Given("base.gguf"), Given("org/tuned")),
        (Given("base.gguf"), Given(adapter="lora")),
    ],
)
def test_adapters_and_gguf_files_can_be_added_too(root, base, tuned):
    add(base=base, tuned=tuned)
    pair = read_pair("mine")
    if base.model.endswith("gguf"):
        assert pair.base.convertible and f"python -m mechdiff prepare {root / 'base.gguf'}" in pair.missing()
        assert main(["prepare", str(root / "base.gguf")]) == 0
    assert pair.missing() is None and not pair.base.convertible
    assert [getattr(pair, side).adapter for side in ("base", "tuned")] == [
        str(root / source.adapter) if source.adapter else None for source in (base, tuned)
    ]


def test_two_models_of_different_build_are_added_with_what_is_left_to_ask():
    _, (note,) = add(tuned=Given("deep"))
    assert "the base has 4 layers, the tuned model 6" in note and "run drift" in note


REFUSED = {
    "a path outside": (
        {"base": Given("/etc")},
        ["/etc is not in", "the only folder whose models may be opened", "MECHDIFF_MODELS"],
    ),
    "up and out": ({"base": Given("../outside")}, ["../outside is not in"]),
    "a link that leads out": ({"base": Given("sly")}, ["sly is not in"]),
    "an adapter outside": ({"tuned": Given(adapter="/tmp")}, ["/tmp is not in"]),
    "nothing there": ({"base": Given("nowhere")}, ["nowhere is neither in", "hub id"]),
    "a hub model that is not here": ({"base": Given("org/model", "v1")}, ["org/model is not on this machine at revision v1"]),
    "what to type for it": ({"base": Given("org/model", "v1")}, ["hf download org/model --revision v1"]),
    "a hub adapter that is not here": (
        {"tuned": Given(adapter="org/lora", adapter_revision="abc")},
        ["hf download org/lora --revision abc"],
    ),
    "no revision": ({"base": Given("org/model", "a b; c")}, ["Revision 'a b; c' is not a commit"]),
    "no tokenizer": ({"tuned": Given("mute")}, ["has no tokenizer"]),
    "a folder without a model": ({"tuned": Given("org")}, ["config.json is missing"]),
    "a model as an adapter": ({"tuned": Given(adapter="base")}, ["adapter_config.json is missing"]),
    "nothing on the tuned side": ({"tuned": Given()}, ["The tuned side is empty"]),
    "no base": ({"base": Given(adapter="lora")}, ["[base] needs exactly one of hub, folder, gguf"]),
    "a shipped name": ({"name": "demo-cultural"}, ["The pair demo-cultural already exists"]),
    "a name that is a path": ({"name": "../mine"}, ["must be 1 to 40 letters"]),
    "a domain": ({"domain": "weather"}, ["'weather'", "cognitive, cognitive@1, cultural"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_may_not_be_opened_or_is_not_there_is_refused_and_nothing_written(case, tmp_path):
    details, says = REFUSED[case]
    with pytest.raises(UserError) as caught:
        add(**details)
    assert all(text in str(caught.value) for text in says), str(caught.value)
    assert not list((tmp_path / "pairs").glob("*"))


def test_a_pair_is_never_written_over():
    add()
    before = (register_pair.OWN_PAIRS / "mine.toml").read_text()
    with pytest.raises(UserError, match="The pair mine already exists"):
        add(tuned=Given("deep"))
    assert (register_pair.OWN_PAIRS / "mine.toml").read_text() == before


def test_a_file_name_cannot_smuggle_options_in(root):
    write_model(root / 'a"\n[options]\ntrust_remote_code = true\n#', 0)
    with pytest.raises(UserError, match="cannot be printed"):
        add(base=Given('a"\n[options]\ntrust_remote_code = true\n#'))
    write_model(root / 'quo"te \\ ä', 0)
    add("odd", base=Given('quo"te \\ ä'))
    assert tomllib.loads((register_pair.OWN_PAIRS / "odd.toml").read_text(encoding="utf-8"))["base"] == {
        "folder": str(root / 'quo"te \\ ä')
    }
    assert not read_pair("odd").trust_remote_code


def test_a_hub_id_never_opens_a_folder_beside_the_app(root, tmp_path, monkeypatch):
    write_adapter(tmp_path / "org" / "lora", root / "base")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="org/lora is not on this machine"):
        add(tuned=Given(adapter="org/lora"))
    with pytest.raises(UserError, match="org/lora is not on this machine"):
        pair_file.Source(folder=str(root / "base"), adapter="org/lora").adapter_folder()


@pytest.fixture
def app():
    at = app_at("home", pair="llama-8b-cultural").run()  # which is not here: nothing is fetched
    assert not at.exception
    return at


def submit(at: AppTest, **typed) -> AppTest:
    for key, text in typed.items():
        at.text_input(key=f"own_{key}").set_value(text)
    next(button for button in at.button if button.label == "Check and add").click()
    at.run()
    assert not at.exception
    return at


@pytest.mark.slow
def test_a_pair_added_in_the_app_is_chosen_and_a_link_opens_it_again(app):
    submit(app, name="mine", base_model="base", tuned_adapter="lora")
    assert app.selectbox(key="pair").value == "mine" and app.toast[0].value == "The pair mine was added."
    again = app_at("home", pair="mine").run()
    assert again.selectbox(key="pair").value == "mine"
    assert any("mine" in m.value and "weights are on this machine" in m.value for m in again.caption)


def test_the_app_refuses_a_path_outside_in_a_sentence(app):
    submit(app, name="mine", base_model="/etc", tuned_model="org/tuned")
    assert "/etc is not in" in app.error[0].value and app.selectbox(key="pair").value != "mine"
    submit(app, base_model="base")
    assert not app.error, [error.value for error in app.error]
    assert app.selectbox(key="pair").value == "mine"


@pytest.mark.slow
def test_the_card_in_the_app_says_what_is_not_here_and_what_cannot_be_asked(app):
    card = app.toggle(key="card").set_value(True).run()
    assert any("hf download meta-llama" in info.value for info in card.info) and not card.exception
    submit(card, name="unlike", base_model="base", tuned_model="deep")
    assert any("4 layers, the tuned model 6" in warning.value for warning in card.warning)
    assert not [button for button in card.button if button.label.startswith("Check rows")]
    submit(card, name="mine", base_model="base", tuned_model="org/tuned")
    assert [button for button in card.button if button.label.startswith("Check rows")]


@pytest.mark.parametrize("view", ["drift", "patching", "transport", "rank", "heads", "weights", "lab"])
def test_every_page_has_a_sentence_for_models_that_do_not_fit(view):
    add("unlike", tuned=Given("deep"))
    at = app_at(view, pair="unlike", prompts="8").run()
    assert not at.exception
    said = [error.value for error in at.error]
    assert (said == []) if view == "drift" else any("no state or matrix" in text for text in said)
