"""Pair files: what is refused and how, where paths lead, and what a fingerprint depends on."""

import pytest
from support.tiny_pair import write_model, write_pair

from mechdiff.common.errors import UserError
from mechdiff.inputs import pair_file
from mechdiff.inputs.pair_file import read_pair, shipped_pairs

pytestmark = pytest.mark.usefixtures("own_store")
SIDES = '[base]\nhub = "a/b"\n[tuned]\nhub = "c/d"\n'


@pytest.fixture(autouse=True)
def empty_hub(tmp_path, monkeypatch):
    """A hub cache without any download."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def written(folder, text, name="mine.toml"):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def fails(call, *says):
    with pytest.raises(UserError) as caught:
        call()
    for text in says:
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("colour = 3\n" + SIDES, ["key 'colour'", "name, domain, [base], [tuned], [options]"]),
        ('[base]\nhub = "a/b"\n', ["no [tuned] table", "Add one"]),
        ('[tuned]\nhub = "a/b"\n', ["no [base] table"]),
        ('base = "a/b"\n[tuned]\nhub = "c/d"\n', ["base is not a table", "[base]"]),
        (
            SIDES.replace("[base]\n", '[base]\nfolder = "x"\n'),
            ["[base] needs exactly one of", "['hub', 'folder']"],
        ),
        ('[base]\n[tuned]\nhub = "c/d"\n', ["[base] needs exactly one of hub, folder, gguf; it has none"]),
        ('[base]\nhub = "a/b"\n[tuned]\n', ["[tuned] needs exactly one of hub, folder, gguf, or only an adapter; it has none"]),
        ('[base]\nadapter = "x"\n[tuned]\nhub = "c/d"\n', ["[base] needs exactly one of hub, folder, gguf"]),
        ('[base]\nhubb = "a/b"\n[tuned]\nhub = "c/d"\n', ["[base] key 'hubb'", "hub, folder, gguf, revision"]),
        (SIDES + '[options]\ndtype = "fp8"\n', ["dtype 'fp8'", "float32, bfloat16, float16"]),
        (SIDES + '[options]\nchat_template = "alpaca"\n', ["chat_template 'alpaca'", "auto, base, each, none"]),
        (SIDES + '[options]\ndtpye = "float32"\n', ["[options] key 'dtpye'", "dtype, chat_template, protocol"]),
        ("[base\n", ["not valid TOML"]),
        (b"\xff\xfe\x00", ["not valid TOML"]),
    ],
)
def test_a_wrong_pair_file_is_named_with_the_choices(tmp_path, text, says):
    path = written(tmp_path, text)
    fails(lambda: read_pair(str(path)), str(path), *says)


def test_an_unknown_pair_is_answered_with_the_choices():
    fails(lambda: read_pair("demo"), "Pair 'demo'", *shipped_pairs(), "path/to/pair.toml")


def test_a_pair_file_that_is_not_there_is_named(tmp_path):
    fails(lambda: read_pair(str(tmp_path / "no.toml")), str(tmp_path / "no.toml"), "python -m mechdiff pairs")


def test_the_shipped_pairs_need_no_download_first():
    assert shipped_pairs() == ["demo-cognitive", "demo-cultural", "llama-8b-cognitive", "llama-8b-cultural"]
    assert [read_pair(name).name for name in shipped_pairs()] == shipped_pairs()


def test_relative_paths_are_relative_to_the_pair_file(tmp_path, monkeypatch):
    pair = read_pair(str(write_pair(tmp_path / "study")))
    monkeypatch.chdir(tmp_path)
    assert pair.base.local() == tmp_path / "study" / "base"
    assert (pair.name, pair.domain, pair.layers, pair.heads) == ("tiny", "cognitive", 4, 6)
    assert pair.missing() is None


def test_an_adapter_alone_sits_on_the_base(tmp_path):
    (tmp_path / "lora").mkdir()
    pair = read_pair(str(written(tmp_path, '[base]\nhub = "a/b"\nrevision = "1"\n[tuned]\nadapter = "lora"\n')))
    assert pair.tuned.weights == pair.base and pair.tuned.weights.revision == "1"
    assert pair.tuned.adapter == str(tmp_path / "lora") and pair.base.adapter is None


def test_a_missing_folder_or_config_tells_what_to_look_at(tmp_path):
    pair = read_pair(str(write_pair(tmp_path)))
    (tmp_path / "base" / "config.json").unlink()
    fails(pair.base.local, "config.json is missing", f"ls {tmp_path / 'base'}")
    assert f"ls {tmp_path / 'base'}" in pair.missing()


@pytest.mark.parametrize("revision", [None, "abc123"])
def test_a_hub_model_that_was_not_downloaded_tells_what_to_type(tmp_path, revision):
    source = pair_file.Source(hub="org/model", revision=revision)
    fails(source.local, "org/model is not on this machine", "hf download org/model" + (" --revision abc123" if revision else ""))
    pair = read_pair(str(written(tmp_path, SIDES)))
    assert "hf download a/b" in pair.missing()


@pytest.mark.parametrize("adapter", ["org/lora", "no/such/folder", "/no/such/folder", "../no such"])
def test_a_missing_adapter_tells_what_to_do(tmp_path, adapter):
    path = write_pair(tmp_path)
    path.write_text(f'[base]\nfolder = "base"\n[tuned]\nadapter = "{adapter}"\n')
    pair = read_pair(str(path))
    fails(pair.tuned.adapter_folder, adapter, "Try:")
    assert adapter in pair.missing()


def test_a_folder_that_is_no_adapter_is_named(tmp_path):
    (tmp_path / "lora").mkdir()
    fails(pair_file.Source(hub="a/b", adapter=str(tmp_path / "lora")).adapter_folder, "adapter_config.json is missing")


@pytest.mark.parametrize("table", ['gguf = "no.gguf"', f'gguf = "x.gguf"\nsha256 = "{"0" * 64}"'])
def test_a_gguf_that_is_not_prepared_tells_what_to_type(tmp_path, monkeypatch, table):
    monkeypatch.setattr(pair_file, "MODELS", tmp_path / "models")
    pair = read_pair(str(written(tmp_path, f'[base]\n{table}\n[tuned]\nhub = "c/d"\n')))
    assert pair.missing().splitlines()[-1] in ("Try:  python -m mechdiff demo", f"Try:  ls {tmp_path}")


CHANGES = {
    "weights": lambda folder: (folder / "model.safetensors").write_bytes(b"SOME weights"),
    "config": lambda folder: (folder / "config.json").write_text('{"num_hidden_layers": 5}'),
    "chat template": lambda folder: (folder / "chat_template.jinja").write_text("{{ messages }}"),
    "tokenizer": lambda folder: (folder / "tokenizer.json").write_text("{}"),
    "another shard": lambda folder: (folder / "more.safetensors").write_bytes(b""),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_fingerprint_changes_with_what_the_model_is_made_of(tmp_path, change):
    source = pair_file.Source(folder=str(write_model(tmp_path / "model")))
    before = source.fingerprint()
    CHANGES[change](tmp_path / "model")
    assert source.fingerprint() != before


def test_a_fingerprint_depends_on_the_adapter_and_its_content(tmp_path):
    plain = pair_file.Source(folder=str(write_model(tmp_path / "model")))
    fingerprints = [plain.fingerprint()]
    for name, weights in (("one", b"1"), ("two", b"2")):
        lora = written(tmp_path / name, weights, "adapter_model.safetensors").parent
        written(lora, "{}", "adapter_config.json")
        fingerprints.append(pair_file.Source(folder=plain.folder, adapter=str(lora)).fingerprint())
    assert len(set(fingerprints)) == 3


def test_a_fingerprint_does_not_change_with_the_path_or_with_a_readme(tmp_path):
    first = pair_file.Source(folder=str(write_model(tmp_path / "one"))).fingerprint()
    write_model(tmp_path / "two")
    written(tmp_path / "two", "words", "README.md")
    assert pair_file.Source(folder=str(tmp_path / "two")).fingerprint() == first


def test_a_hub_fingerprint_names_the_commit(tmp_path, monkeypatch):
    snapshot = write_model(tmp_path / "snapshots" / "c0ffee")
    monkeypatch.setattr(pair_file, "snapshot", lambda *arguments: snapshot)
    assert pair_file.Source(hub="org/model").fingerprint() == "org/model@c0ffee"


@pytest.mark.parametrize("field", ["num_hidden_layers", "hidden_size", "num_attention_heads"])
def test_models_of_different_shape_are_told_apart(tmp_path, field):
    import json

    pair = read_pair(str(write_pair(tmp_path)))
    pair.check_same_shape()
    config = tmp_path / "tuned" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {field: 12}))
    fails(pair.check_same_shape, "the tuned model 12", "drift")


def downloaded(tmp_path, repo: str, *files: str, commit: str = "c0ffee", name: str = "main"):
    """Files of a hub repository, as a download leaves them."""
    folder = tmp_path / "hub" / f"models--{repo.replace('/', '--')}"
    (folder / "snapshots" / commit).mkdir(parents=True)
    for file in files:
        written(folder / "snapshots" / commit, "{}", file)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / name).write_text(commit)
    return folder / "snapshots" / commit


ADAPTED = '[base]\nhub = "a/b"\nrevision = "v2"\n[tuned]\nadapter = "c/lora"\n'


@pytest.mark.parametrize("named", ['adapter_revision = "v1"\n', 'revision = "v1"\n'])
def test_base_and_adapter_have_each_their_own_revision(tmp_path, named):
    """Where tuned is only an adapter, its revision is the adapter's."""
    base = downloaded(tmp_path, "a/b", "config.json", "model.safetensors", commit="aaa", name="v2")
    pair = read_pair(str(written(tmp_path, ADAPTED + named)))
    assert "hf download c/lora --revision v1" in pair.missing()
    lora = downloaded(tmp_path, "c/lora", "adapter_config.json", commit="bbb", name="v1")
    assert pair.missing() is None
    assert pair.base.local() == pair.tuned.local() == base and pair.tuned.adapter_folder() == lora
    assert pair.tuned.weights == pair.base and pair.tuned.fingerprint().startswith("a/b@aaa+")


def test_a_hub_model_of_which_only_the_configuration_was_fetched_is_not_here(tmp_path):
    downloaded(tmp_path, "a/b", "config.json")
    downloaded(tmp_path, "c/d", "config.json", "model.safetensors")
    assert "model.safetensors is missing" in read_pair(str(written(tmp_path, SIDES))).missing()


def test_an_adapters_repository_is_no_model(tmp_path):
    downloaded(tmp_path, "a/b", "adapter_config.json")
    fails(pair_file.Source(hub="a/b").local, "or has no config.json", "terms", "hf auth login", "hf download a/b")
