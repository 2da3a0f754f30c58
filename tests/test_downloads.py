"""Models from the hub, against a hub on this machine: what is fetched, what is continued, and what each mistake costs."""

import errno
import json
import shutil
from pathlib import Path

import pytest
from filelock import FileLock
from huggingface_hub import constants
from support import hub_server, small_models
from support.hub_server import TOKEN, sha256

from mechdiff import UserError
from mechdiff.cli.base import follow
from mechdiff.inputs.pair_file import read_pair
from mechdiff.models import downloads
from mechdiff.models.downloads import Download, Wanted
from mechdiff.models.hub_errors import hub_errors

WEIGHTS = "org/base/model.safetensors"
LARGE = {"vocab_size": 20_000}  # weights of 5 MB


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models as the hub has them, with files that mechdiff does not load."""
    folder = tmp_path_factory.mktemp("models")
    for seed, side in enumerate(("base", "tuned")):
        small_models.write_model(folder / side, seed, **LARGE)
        for name in ("original/consolidated.safetensors", "consolidated.safetensors", "pytorch_model.bin", "onnx/config.json"):
            (folder / side / name).parent.mkdir(exist_ok=True)
            (folder / side / name).write_bytes(b"a copy in another format")
        (folder / side / "README.md").write_text("a card")
    return folder


@pytest.fixture
def hub(models, tmp_path, monkeypatch):
    """A hub with both models, and an empty cache of it."""
    with hub_server.serving(repositories={"org/base": models / "base", "org/tuned": models / "tuned"}) as served:
        use(served.url, tmp_path, monkeypatch)
        yield served


def use(url: str, folder: Path, monkeypatch) -> None:
    """Let this process use a hub, with its cache and its login in a folder."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hf" / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "hf" / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def pair(tmp_path):
    return read_pair(small_models.write_pair(tmp_path, 'hub = "org/base"', 'hub = "org/tuned"'))


def looked_up(pair) -> list[downloads.Repository]:
    return [downloads.look_up(wanted) for wanted in downloads.absent(pair)]


def fetch(pair) -> Download:
    """Download what a pair lacks."""
    task = Download(looked_up(pair))
    for _ in task.steps():
        pass
    return task


def fails(act, *texts: str) -> None:
    with pytest.raises(UserError) as caught:
        act()
    message = str(caught.value)
    assert len(message.splitlines()) == 2 and "\nTry:  " in message
    for text in texts:
        assert text in message


# What is fetched


def test_what_is_missing_is_known_before_it_is_fetched(hub, pair, models):
    assert downloads.absent(pair) == [Wanted("org/base", None), Wanted("org/tuned", None)] and hub.asked == []
    base, _ = repositories = looked_up(pair)
    loaded = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}
    assert {file.name for file in base.files} == loaded
    assert base.size == sum((models / "base" / name).stat().st_size for name in loaded)
    assert base.here == (models / "base" / "config.json").stat().st_size < 1000 and not hub.fetched(WEIGHTS)
    downloads.check_space(repositories)


def test_a_downloaded_pair_can_be_studied_and_is_not_fetched_again(hub, pair, models):
    assert "hf download org/base" in pair.missing()
    task = fetch(pair)
    assert task.done == task.total == sum(hub.sent.values()) and set(hub.sent.values()) == {file.size for _, file in task.files}
    assert pair.missing() is None and downloads.absent(pair) == []
    for side in ("base", "tuned"):
        folder = getattr(pair, side).local()
        assert folder.name == hub.commit(f"org/{side}"), "the fingerprint of a hub model is its commit"
        assert (folder / "model.safetensors").read_bytes() == (models / side / "model.safetensors").read_bytes()
    asked = len(hub.asked)
    assert [*task.steps()] and len(hub.asked) == asked


def test_progress_is_told_in_bytes(hub, pair, capsys):
    follow(Download(looked_up(pair)), "download", unit="B")
    assert capsys.readouterr().err.startswith("download: 10.5 MB in ")


def test_the_shards_of_the_index_are_fetched_and_no_others(hub, pair, models, tmp_path):
    shutil.copytree(models / "base", tmp_path / "sharded")
    (tmp_path / "sharded" / "model.safetensors").rename(tmp_path / "sharded" / "model-00001-of-00001.safetensors")
    (tmp_path / "sharded" / "model-fp8.safetensors").write_bytes(b"another format")
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00001.safetensors"}}
    (tmp_path / "sharded" / "model.safetensors.index.json").write_text(json.dumps(index))
    hub.repositories["org/base"] = tmp_path / "sharded"
    fetch(pair)
    assert pair.missing() is None
    names = {path.name for path in pair.base.local().iterdir() if "model" in path.name}
    assert names == {"model.safetensors.index.json", "model-00001-of-00001.safetensors"}


def test_an_adapter_is_fetched_next_to_its_base(hub, models, tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    shutil.copy(models / "tuned" / "model.safetensors", tmp_path / "adapter" / "adapter_model.safetensors")
    hub.repositories["org/lora"] = tmp_path / "adapter"
    pair = read_pair(small_models.write_pair(tmp_path, 'hub = "org/base"', 'adapter = "org/lora"'))
    assert downloads.absent(pair) == [Wanted("org/base", None), Wanted("org/lora", None, adapter=True)]
    fetch(pair)
    assert pair.missing() is None and (pair.tuned.adapter_folder() / "adapter_model.safetensors").exists()


# Going on


def parts(tmp_path) -> list[Path]:
    return sorted((tmp_path / "hf" / "hub").rglob(f"*{downloads.PART}"))


def test_a_stopped_download_is_continued_where_it_was(hub, pair, models, tmp_path):
    hub.rate = 5e6
    task = Download(looked_up(pair))
    steps = task.steps()
    while task.done < task.total / 3:
        next(steps)
    steps.close()
    sizes = {path.name.removesuffix(downloads.PART): path.stat().st_size for path in parts(tmp_path)}
    assert len(sizes) == 2 and 0 < sum(sizes.values()) < task.total
    hub.rate = float("inf")
    again = Download(looked_up(pair))
    assert again.done > sum(sizes.values()), "the small files are counted too"
    assert [*again.steps()] and again.done == again.total
    for side in ("base", "tuned"):
        first, second = hub.fetched(f"org/{side}/model.safetensors")
        assert (first, second) == ("bytes=0-", f"bytes={sizes[sha256(models / side / 'model.safetensors')]}-")
    assert pair.missing() is None and parts(tmp_path) == []


def test_a_broken_connection_is_continued_at_once(hub, pair, monkeypatch):
    hub.breaks = 2_000_000
    fetch(pair)
    ranges = hub.fetched(WEIGHTS) + hub.fetched("org/tuned/model.safetensors")
    assert len(ranges) == 3 and sum(part != "bytes=0-" for part in ranges) == 1 and pair.missing() is None


def test_a_damaged_file_is_deleted_and_fetched_anew(hub, pair, tmp_path):
    hub.damaged.add(WEIGHTS)
    fails(lambda: fetch(pair), "model.safetensors of org/base arrived damaged", "the same command again")
    assert downloads.absent(pair)[0] == Wanted("org/base", None) and not [p for p in parts(tmp_path) if "base" in str(p)]
    hub.damaged.clear()
    fetch(pair)
    assert pair.missing() is None


def test_a_file_that_ends_early_is_a_sentence(hub, pair, monkeypatch):
    monkeypatch.setattr(downloads, "RETRIES", 0)
    hub.short.add(WEIGHTS)
    fails(lambda: fetch(pair), "model.safetensors of org/base ends after", "the same command again")


def test_another_download_of_the_same_file_is_waited_for(hub, pair, models):
    (base, _) = repositories = looked_up(pair)
    folder = downloads.repository_folder(base.name)
    lock = folder.parent / ".locks" / folder.name / f"{sha256(models / 'base' / 'model.safetensors')}.lock"
    task = Download(repositories)
    with FileLock(lock):
        for _ in task.steps():
            if task.stage == "waiting for another download of model.safetensors":
                break
    assert not hub.fetched(WEIGHTS)
    assert [*task.steps()] and hub.fetched(WEIGHTS) == ["bytes=0-"]


# Access


def log_in() -> None:
    Path(constants.HF_TOKEN_PATH).parent.mkdir(parents=True, exist_ok=True)
    Path(constants.HF_TOKEN_PATH).write_text(TOKEN)


def test_a_gated_model_needs_a_login_and_access(hub, pair):
    hub.gated.add("org/base")
    fails(lambda: looked_up(pair), "org/base is gated", f"{hub.url}/org/base", "hf auth login")
    log_in()
    fails(lambda: looked_up(pair), "org/base is gated", "no access", f"{hub.url}/org/base")
    hub.granted.add(TOKEN)
    fetch(pair)
    assert pair.missing() is None


def test_only_the_hub_sees_the_login(hub, pair):
    log_in()
    fetch(pair)
    assert set(hub.logins) == {("127.0.0.1", f"Bearer {TOKEN}"), ("localhost", "")}


# Mistakes


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (Wanted("org/nothing", None), ["no model org/nothing", "/org/nothing", "hf auth login"]),
        (Wanted("org/base", "v9"), ["org/base has no revision v9", 'revision = "main"']),
        (Wanted("not an id", None), ["not an id is not a hub id", "org/model"]),
        (Wanted("org/base", None, adapter=True), ["org/base has no adapter_config.json"]),
    ],
)
def test_what_the_hub_does_not_have_is_a_sentence(hub, wanted, says):
    fails(lambda: downloads.look_up(wanted), *says)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (["config.json", "pytorch_model.bin"], ["as .bin files alone", "pickle", "safetensors"]),
        (["model-q4.gguf"], ["holds GGUF files", "hf download org/odd FILE.gguf"]),
        (["config.json"], ["has no model.safetensors"]),
    ],
)
def test_a_repository_without_safetensors_is_a_sentence(hub, tmp_path, files, says):
    (tmp_path / "odd").mkdir()
    for name in files:
        (tmp_path / "odd" / name).write_text("{}")
    hub.repositories["org/odd"] = tmp_path / "odd"
    fails(lambda: downloads.look_up(Wanted("org/odd", None)), "org/odd", *says)


def test_a_hub_that_does_not_answer_is_a_sentence(hub, pair, tmp_path, monkeypatch):
    hub.status = 503
    fails(lambda: looked_up(pair), "cannot serve org/base now (status 503)", "in a few minutes")
    hub.status = 401
    fails(lambda: looked_up(pair), "refuses the login", "hf auth login")
    use("http://127.0.0.1:9", tmp_path, monkeypatch)
    fails(lambda: looked_up(pair), "http://127.0.0.1:9 cannot be reached (ConnectError)", "the same command again")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fails(lambda: looked_up(pair), "HF_HUB_OFFLINE is set", "unset HF_HUB_OFFLINE")


def test_a_full_disk_is_known_before_and_told_during_a_download(hub, pair, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(0, 0, 1_000_000))
    fails(lambda: downloads.check_space(looked_up(pair)), "10.5 MB are to be downloaded", "1.0 MB are free", "HF_HUB_CACHE=")

    def write():
        with hub_errors("org/base"):
            raise OSError(errno.ENOSPC, "No space left on device")

    fails(write, "The disk is full", "org/base stays", "the same command")


def test_a_folder_that_cannot_be_written_is_a_sentence(hub, pair, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    fails(lambda: looked_up(pair), "Cannot write to", "HF_HUB_CACHE=/some/folder")
