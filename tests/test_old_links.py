"""Links, talks, snippets and command lines of version 0.1 ask for what they asked for."""

import json
import re
import runpy
import shlex
import shutil
from pathlib import Path

import pytest
from support.version_01 import DATA, DRIVER, ROOT, cli, copied, lines_of, python, recorded

from mechdiff.cli import build_parser, run
from mechdiff.study import request_json

LAYERS, HEADS = 30, 9  # of the demo pairs
SNIPPETS = """
import ast, json, sys
from pathlib import Path

for path in map(Path, sys.argv[1:]):
    body = ast.parse(path.read_text(encoding="utf-8")).body
    asks = [i for i, part in enumerate(body) if "mechdiff.Run(" in ast.unparse(part)]
    last, place = max(asks, default=len(body) - 1), {}
    exec(compile(ast.Module(body[: last + 1], []), path.name, "exec"), place)
    print(json.dumps([path.stem, place["run"].question if asks else "compare", len(body) - last - 1]))
"""


def write_like_demo(cache: Path) -> None:
    """Two pairs of small random models, added on this machine, that have the demo pairs' layers and heads: any link to those
    opens on these, in seconds."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    texts = [json.loads(line)["text"] for file in sorted(ROOT.glob("mechdiff/**/val.jsonl")) for line in file.open()]
    words = dict.fromkeys(["<pad>", "<s>", "</s>", "<unk>", "yes", "no", *" ".join(texts[::5]).split()[:400]])
    tokens = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    sizes = {"vocab_size": len(words), "hidden_size": 8 * HEADS, "intermediate_size": 48, "num_hidden_layers": LAYERS}
    sizes |= {"num_attention_heads": HEADS, "num_key_value_heads": 3, "head_dim": 8, "max_position_embeddings": 1024}
    (cache / "pairs").mkdir(parents=True)
    for side, seed in (("base", 0), ("tuned", 1)):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **sizes)).eval()
        for parameter in (weight for weight in model.parameters() if weight.ndim > 1):
            torch.nn.init.normal_(parameter, std=0.1)
        model.save_pretrained(cache / "like" / side)
        tokenizer.save_pretrained(cache / "like" / side)
    for domain in ("cultural", "cognitive"):
        sources = "".join(f'[{side}]\nfolder = "../like/{side}"\n' for side in ("base", "tuned"))
        (cache / "pairs" / f"like-{domain}.toml").write_text(f'domain = "{domain}"\n{sources}')


def here(text: str) -> str:
    """A text that names the demo pairs, with the small ones in their place; not where stored sweeps are named."""
    return re.sub(r"(?<![ab]_pair=)(?<![ab]_pair = \")demo-(cultural|cognitive)", r"like-\1", text)


def needs_no_model(name: str) -> bool:
    return name.startswith(("compare", "sweeps"))


@pytest.fixture(scope="module")
def like(tmp_path_factory):
    """A checkout and a cache folder: the two small pairs, with the demo pairs' stored sweeps, and one's own prompts."""
    place = tmp_path_factory.mktemp("like")
    write_like_demo(place / "cache")
    shutil.copytree(DATA / "prompts", place / "cache" / "prompts")
    artifacts = copied(place)
    for folder in ROOT.glob("mechdiff/artifacts/*/*/demo-*"):
        there = artifacts / folder.relative_to(ROOT / "mechdiff" / "artifacts")
        there.parent.mkdir(parents=True, exist_ok=True)
        for name in (folder.name, here(folder.name)):
            there.with_name(name).symlink_to(folder, target_is_directory=True)
    return {"cache": place / "cache", "package": place}


@pytest.fixture(scope="module")
def opened(like):
    """What every page asks for when its old link is opened."""
    links = {name: page["link"] if needs_no_model(name) else here(page["link"]) for name, page in recorded("links.json").items()}
    (like["cache"] / "links.json").write_text(json.dumps(links))
    pages = lines_of(python("-c", DRIVER, like["package"], like["cache"] / "links.json", **like))
    return {name: page for line in pages for name, page in line.items()}


def alike(old: dict, now: dict) -> bool:
    """Whether a request has what the old one had. A field may be gone where the old one had its question's default there, and a
    request may be of a type of its own, if it still names its question; new fields are not looked at."""
    for name, value in old.items():
        if name == "type":
            if value != "Run" and value != now[name]:
                return False
        elif isinstance(value, dict):
            if not isinstance(now.get(name), dict) or not alike(value, now[name]):
                return False
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            if len(value) != len(now[name]) or not all(map(alike, value, now[name])):
                return False
        elif name in ("ranks", "controls"):  # more of them, as where none are stored; transport has always the uncut map
            if old.get("question") != "transport" and not set(value) <= set(now.get(name, value)):
                return False
        elif (
            name == "map" and old.get("question") == "weights" and value == "procrustes_scaled"
        ):  # the default, which nothing read
            continue
        elif name in now:
            if now[name] != value:
                return False
        elif old["type"] != "Run" or name == "question" or value != recorded("defaults.json")[old["question"]][name]:
            return False
    return True


def on_first_version(line: str) -> str:
    """A command of before, on the prompts of its day."""
    args = build_parser().parse_args(shlex.split(line)[3:])
    domain = run.read(args)[0].chosen_domain if args.command == "run" else getattr(args, "domain", None)
    return f"{line} --domain {domain}@1" if domain else line


def on_first_versions(requests: list) -> list:
    """Old requests with their domains named as today: of the first version."""
    return json.loads(re.sub(r'"domain": "(\w+)"', r'"domain": "\1@1"', json.dumps(requests)))


def parsed(line: str) -> dict:
    """What a command line asks for, whatever the order of its flags."""
    args = build_parser().parse_args(shlex.split(line)[3:])
    if args.command == "run":
        request, files = run.read(args)
        return files | {"request": request}
    return vars(args)


@pytest.mark.slow
@pytest.mark.parametrize("name", recorded("links.json"))
def test_a_link_asks_for_what_it_asked(opened, name):
    old, now = recorded("links.json")[name], opened[name]
    if not needs_no_model(name):
        old = json.loads(here(json.dumps(old)))
    assert now["problems"] == [] and now["warnings"] == old["warnings"] and now["page"] == old["page"]
    day = {"domain": f"{old['selection']['domain']}@1"} if "domain" in old["selection"] else {}
    assert now["selection"] == old["selection"] | day
    of_requests = "python -m mechdiff" + " run" * (not needs_no_model(name))  # the others are those of stored sweeps
    commands = [[line for line in page["commands"] if line.startswith(of_requests)] for page in (now, old)]
    assert [parsed(line) for line in commands[0]] == [parsed(on_first_version(line)) for line in commands[1]]
    left = list(now["requests"])
    for request in on_first_versions(old["requests"]):
        match = next((candidate for candidate in left if alike(request, candidate)), None)
        assert match is not None, f"{request} is not asked for; these are left: {left}"
        left.remove(match)
    assert left == []
    if needs_no_model(name):
        assert now["metrics"] == old["metrics"]


@pytest.mark.parametrize("name", recorded("links.json"))
def test_a_request_of_the_pages_is_read(name):
    """As a bundle holds it."""
    requests = recorded("links.json")[name]["requests"]
    for request, expected in zip(requests, on_first_versions(requests), strict=True):
        assert alike(expected, json.loads(json.dumps(request_json.plain(request_json.request(request)))))


@pytest.mark.slow
def test_a_talk_is_read_and_prepared(like, opened, tmp_path):
    """opened: what its slides show is then known already, so that little is left to compute."""
    text = (DATA / "my-talk.toml").read_text(encoding="utf-8")
    path = tmp_path / "my-talk.toml"
    path.write_text(here(text))
    done = cli("talk", "prepare", path, "--minutes", "0", **like)
    assert done.returncode == 0, done.stderr
    steps = re.findall(r"^Step (\d) of 5, (\w+): ready", done.stdout, re.MULTILINE)
    assert [list(step) for step in steps] == recorded("talk.json")["steps"]
    assert done.stdout.startswith("What our adapter changed: 5 steps\n") and "?talk=my-talk" in done.stdout
    assert (like["cache"] / "talks" / "my-talk.toml").read_text() == here(text)
    path.write_text(here(text).replace("layer = 16", "layr = 16"))
    done = cli("talk", "prepare", path, **like)
    assert done.returncode == 2 and "Step 2: key 'layr'" in done.stderr


@pytest.mark.slow
def test_a_snippets_request_can_still_be_made(tmp_path):
    """All of every snippet but what computes: its imports, its prompts and its request. That of Compare runs whole."""
    paths = sorted((DATA / "snippets").glob("*.py"))
    requests = lines_of(python("-c", SNIPPETS, *paths, cache=tmp_path))
    assert [(name, question) for name, question, _ in requests] == [(path.stem, path.stem.partition("-")[0]) for path in paths]
    assert len(paths) >= 8


def test_every_documented_command_can_still_be_typed(tmp_path, monkeypatch):
    lines = (DATA / "commands.txt").read_text(encoding="utf-8").splitlines()
    monkeypatch.chdir(tmp_path)
    for line in lines:
        assert parsed(command_of(line, monkeypatch)), line
    assert len(lines) > 90


def command_of(line: str, monkeypatch) -> str:
    """A line of a script as the command that it stands for; any other line as it is."""
    _, _, module, *words = shlex.split(line)
    if module == "mechdiff":
        return line
    monkeypatch.setattr("sys.argv", [module, *words])
    monkeypatch.setattr("mechdiff.__main__.main", lambda words: shlex.join(["python", "-m", "mechdiff", *words]))
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__")
    return str(ended.value.code)
