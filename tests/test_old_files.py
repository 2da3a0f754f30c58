"""What an older mechdiff left on disk still opens, with the same numbers: what lies in tests/data/v0.1 was made by 0.1.0.

Only what people have in their hands is used: command lines, addresses of the app, files, `mechdiff.run` and `mechdiff.Run`. Every
command runs in a process and a cache of its own. Two helpers know more: DRIVER reads a page's answered requests out of the app's
session (`_page_record`), and SNIPPETS knows how a snippet is laid out.
"""

import ast
import hashlib
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path

import pandas as pd
import pytest

import mechdiff
from mechdiff.cli import build_parser, run
from mechdiff.study import request_json

ROOT = Path(mechdiff.__file__).resolve().parents[1]
HERE = Path(__file__).resolve().parent
DATA = HERE / "data" / "v0.1" if (HERE / "data" / "v0.1").is_dir() else HERE
FINDINGS = {"finding.zip": [], "finding-tiny.zip": ["--pair", "tiny/tiny.toml"]}  # bundles, and what a replay of them needs
SAME = ("same", "rounding")
LAYERS, HEADS = 30, 9  # of the demo pairs
NUMBER = r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e-\d+)?"
VALUE = re.compile(rf"(?:{NUMBER}|full) (?:% )?\[[^\]]*\d[^\]]*\]|full \[full, full\]|(?<![\w.])[-+]?\d+\.\d+(?:e-\d+)?(?![\w.])")
DRIVER = """
import dataclasses, json, logging, sys, time
from pathlib import Path
from urllib.parse import parse_qs

logging.disable(logging.WARNING)
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash

APP = Path(sys.argv[1]) / "app"
sys.path.insert(0, str(APP))


def plain(value):
    if dataclasses.is_dataclass(value):
        named = {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        more = {"question": value.question} if hasattr(value, "question") else {}
        return {"type": type(value).__name__} | more | named
    return [plain(part) for part in value] if isinstance(value, tuple | list) else value


def opened(page, query):
    at = AppTest.from_file(str(APP / "Home.py"), default_timeout=600)
    at._page_hash = calc_hash("" if page == "home" else page)
    for key, values in parse_qs(query, keep_blank_values=True).items():
        at.query_params[key] = values
    at.run()
    while at.get("progress"):
        time.sleep(0.3)
        at.run()
    return at


for name, link in json.load(open(sys.argv[2])).items():
    page, _, query = link.partition("?")
    start, page = time.monotonic(), page.strip("./") or "home"
    at = opened(page, query)
    found = {
        "page": page,
        "header": [one.value for one in at.header],
        "selection": {key: at.session_state[key] for key in parse_qs(query) if key in at.session_state},
        "requests": [plain(request) for request in at.session_state["_page_record"].answers],
        "commands": [one.value for one in at.code if one.value.startswith("python -m mechdiff")],
        "metrics": {one.label: one.value for one in at.metric},
        "problems": [*(one.value for one in at.error), *(one.message for one in at.exception)],
        "warnings": [one.value for one in at.warning],
        "seconds": round(time.monotonic() - start, 1),
    }
    print(json.dumps({name: found}), flush=True)
"""
RUNNER = """
import contextlib, io, json, sys
from mechdiff.__main__ import main

for arguments in json.load(open(sys.argv[1])):
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        status = main(arguments)
    print(json.dumps([status, said.getvalue()]), flush=True)
"""


def python(*arguments, cache: Path, place: Path = DATA, package: Path = ROOT) -> subprocess.CompletedProcess:
    """Python in a process of its own. cache: its cache folder. place: where it runs. package: the checkout it imports."""
    environment = os.environ | {"MECHDIFF_CACHE": str(cache), "PYTHONPATH": str(package), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)


def cli(*arguments, **where) -> subprocess.CompletedProcess:
    """The command line."""
    return python("-m", "mechdiff", *arguments, **where)


def lines_of(done: subprocess.CompletedProcess) -> list:
    """A JSON value a line."""
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("{", "["))]


def told(name: str):
    return json.loads((DATA / name).read_text(encoding="utf-8"))


def values(text: str) -> list[str]:
    """The measured values of a text, in order, whatever its words: numbers with their intervals, and decimal numbers."""
    return VALUE.findall(text)


def text_of(html: str) -> str:
    """What is read on a page, pictures and styles apart."""
    plain = re.sub(r"<(style|svg)\b.*?</\1>", " ", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", plain)))


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
        for parameter in (one for one in model.parameters() if one.ndim > 1):
            torch.nn.init.normal_(parameter, std=0.1)
        model.save_pretrained(cache / "like" / side)
        tokenizer.save_pretrained(cache / "like" / side)
    for domain in ("cultural", "cognitive"):
        sources = "".join(f'[{side}]\nfolder = "../like/{side}"\n' for side in ("base", "tuned"))
        (cache / "pairs" / f"like-{domain}.toml").write_text(f'domain = "{domain}"\n{sources}')


def add_tiny(cache: Path) -> None:
    """The tiny pair as one that was added on this machine. (A replay needs its file beside that, as everywhere.)"""
    sources = "".join(f'[{side}]\nfolder = "{DATA / "tiny" / side}"\n' for side in ("base", "tuned"))
    (cache / "pairs").mkdir(parents=True)
    (cache / "pairs" / "tiny.toml").write_text(f'domain = "cultural"\n{sources}')


def here(text: str) -> str:
    """A text that names the demo pairs, with the small ones in their place; not where stored sweeps are named."""
    return re.sub(r"(?<![ab]_pair=)(?<![ab]_pair = \")demo-(cultural|cognitive)", r"like-\1", text)


def needs_no_model(name: str) -> bool:
    return name.startswith(("compare", "sweeps"))


def copied(place: Path) -> Path:
    """A checkout without any stored sweep: the package and the app. Returns where sweeps are stored in it."""
    for name in ("mechdiff", "app"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("artifacts", "__pycache__"))
    return place / "mechdiff" / "artifacts"


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
    links = {name: one["link"] if needs_no_model(name) else here(one["link"]) for name, one in told("links.json").items()}
    (like["cache"] / "links.json").write_text(json.dumps(links))
    found = lines_of(python("-c", DRIVER, like["package"], like["cache"] / "links.json", **like))
    return {name: one for line in found for name, one in line.items()}


@pytest.fixture(scope="module")
def demo_cache(tmp_path_factory):
    """An empty cache, but for the demo model."""
    usual = Path(os.environ.get("MECHDIFF_CACHE", ROOT / "cache"))
    done = cli("demo", cache=usual)
    assert done.returncode == 0, done.stderr
    cache = tmp_path_factory.mktemp("demo") / "cache"
    cache.mkdir()
    (cache / "models").symlink_to(usual / "models", target_is_directory=True)
    return cache


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
        elif name == "ranks" and old["question"] == "transport":  # always the uncut map, whatever 0.1.0 wrote here
            continue
        elif name in now:
            if now[name] != value:
                return False
        elif old["type"] != "Run" or name == "question" or value != told("defaults.json")[old["question"]][name]:
            return False
    return True


def parsed(line: str) -> dict:
    """What a command line asks for, whatever the order of its flags."""
    args = build_parser().parse_args(shlex.split(line)[3:])
    if args.command == "run":
        request, files = run.read(args)
        return files | {"request": request}
    return vars(args)


@pytest.mark.slow
@pytest.mark.parametrize("name", told("links.json") if (DATA / "links.json").exists() else [])
def test_a_link_asks_for_what_it_asked(opened, name):
    old, now = told("links.json")[name], opened[name]
    if not needs_no_model(name):
        old = json.loads(here(json.dumps(old)))
    assert now["problems"] == [] and now["warnings"] == old["warnings"] and now["page"] == old["page"]
    assert now["selection"] == old["selection"]
    told_here = "python -m mechdiff" + " run" * (not needs_no_model(name))  # the others are those of stored sweeps
    asked = [[parsed(line) for line in one["commands"] if line.startswith(told_here)] for one in (now, old)]
    assert asked[0] == asked[1]
    left = list(now["requests"])
    for request in old["requests"]:
        match = next((one for one in left if alike(request, one)), None)
        assert match is not None, f"{request} is not asked for; these are left: {left}"
        left.remove(match)
    assert left == []
    if needs_no_model(name):
        assert now["metrics"] == old["metrics"]


@pytest.mark.parametrize("name", told("links.json"))
def test_a_request_of_the_pages_is_read(name):
    """As a bundle holds it."""
    for request in told("links.json")[name]["requests"]:
        assert alike(request, json.loads(json.dumps(request_json.plain(request_json.request(request)))))


@pytest.mark.slow
@pytest.mark.parametrize("name", FINDINGS)
def test_a_bundle_replays_to_the_same_numbers(name, request, tmp_path):
    cache = request.getfixturevalue("demo_cache") if name == "finding.zip" else tmp_path
    if name == "finding-tiny.zip":
        add_tiny(cache)
    old, done = told("replay.json")[name], cli("replay", name, "--device", "cpu", *FINDINGS[name], cache=cache)
    assert done.returncode == old["exit"] == 0, done.stdout + done.stderr
    now, then = (verdicts(text) for text in (done.stdout, old["output"]))
    assert now == then and set(now["verdicts"].values()) <= {SAME}


def verdicts(output: str) -> dict:
    """What a replay printed: its first lines, each table's verdict and count of values, and the headline's two numbers."""
    tables = re.findall(r"^(\S+) +(same|rounding|differs|other|unchecked) ", output, re.MULTILINE)
    found = re.search(r"Headline: (\S+) in the bundle, (\S+) here", output)
    assert found[1] == pytest.approx(found[2]) or float(found[1]) == pytest.approx(float(found[2]), rel=1e-4)
    return {
        "opening": output.splitlines()[:2],
        "verdicts": {name: SAME if verdict in SAME else verdict for name, verdict in tables},
        "values": re.findall(r"^ +(\d+) values", output, re.MULTILINE),
        "headline": found[1],
    }


def run_notebook(name: str, cache: Path) -> tuple[str, str]:
    """A notebook's words, and what its code prints in a process of its own; a chart at a cell's end has to be one."""
    cells = told(name)["cells"]
    code = ["\n".join(cell["source"]) if isinstance(cell["source"], list) else cell["source"] for cell in cells]
    words = "\n".join(text for text, cell in zip(code, cells) if cell["cell_type"] == "markdown")
    script = ""
    for text in (text for text, cell in zip(code, cells) if cell["cell_type"] == "code"):
        *_, last = ast.parse(text).body
        shown = isinstance(last, ast.Expr) and ast.unparse(last).startswith("charts.")
        script += (text if not shown else text.replace(ast.get_source_segment(text, last), f"_ = {ast.unparse(last)}")) + "\n"
        script += "print('chart:', _.to_dict()['title']['text'])\n" if shown else ""
    done = python("-c", script, cache=cache)
    assert done.returncode == 0, done.stderr
    return words, done.stdout


@pytest.mark.slow
def test_a_notebook_gives_the_number_that_it_states(demo_cache):
    words, printed = run_notebook("finding.ipynb", demo_cache)
    stated = float(re.search(r"On the screen: \*\*(\S+) nats\*\*", words)[1])
    value, low, high = map(float, printed.splitlines()[0].split())
    assert value == pytest.approx(stated, rel=1e-4) and low < value < high
    assert "chart: Which layers' states move the next token?" in printed


@pytest.mark.slow
def test_the_notebook_of_a_comparison_says_the_same_verdict(tmp_path):
    _, printed = run_notebook("compare.ipynb", tmp_path)
    old = (DATA / "compare.txt").read_text(encoding="utf-8")
    keys = [[line.split()[0] for line in text.splitlines()[2:]] for text in (printed, old)]
    assert keys[0] == keys[1] and keys[0][-1] == "chart:"
    assert values(printed) == values(old) and len(values(old)) > 15


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


@pytest.mark.slow
def test_a_snippets_request_can_still_be_made(tmp_path):
    """All of every snippet but what computes: its imports, its prompts and its request. That of Compare runs whole."""
    paths = sorted((DATA / "snippets").glob("*.py"))
    found = lines_of(python("-c", SNIPPETS, *paths, cache=tmp_path))
    assert [(name, question) for name, question, _ in found] == [(path.stem, path.stem.partition("-")[0]) for path in paths]
    assert len(paths) >= 8


@pytest.mark.slow
def test_a_talk_is_read_and_prepared(like, opened, tmp_path):
    """opened: what its slides show is then known already, so that little is left to compute."""
    text = (DATA / "my-talk.toml").read_text(encoding="utf-8")
    path = tmp_path / "my-talk.toml"
    path.write_text(here(text))
    done = cli("talk", "prepare", path, "--minutes", "0", **like)
    assert done.returncode == 0, done.stderr
    steps = re.findall(r"^Step (\d) of 5, (\w+): ready", done.stdout, re.MULTILINE)
    assert [list(step) for step in steps] == told("talk.json")["steps"]
    assert done.stdout.startswith("What our adapter changed: 5 steps\n") and "?talk=my-talk" in done.stdout
    assert (like["cache"] / "talks" / "my-talk.toml").read_text() == here(text)
    path.write_text(here(text).replace("layer = 16", "layr = 16"))
    done = cli("talk", "prepare", path, **like)
    assert done.returncode == 2 and "Step 2: key 'layr'" in done.stderr


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the package whose only stored sweep is the old one."""
    place = tmp_path_factory.mktemp("checkout")
    shutil.copytree(DATA / "sweep", copied(place))
    return place


def test_a_stored_sweep_holds_its_values():
    """Every table can be read, and has the lines, columns and means that it had."""
    old, found = told("summaries.json")["tables"], {}
    for path in stored_tables():
        found[path.relative_to(DATA / "sweep").as_posix()] = summary_of(pd.read_parquet(path))
    assert found.keys() == old.keys()
    for name in old:
        assert found[name] == pytest.approx(old[name], rel=1e-6, nan_ok=True), name


def stored_tables() -> list[Path]:
    return sorted((DATA / "sweep").glob("*/rq*/tiny/*.parquet"))


def summary_of(table: pd.DataFrame) -> dict[str, float]:
    """How many lines, and the mean of every column that holds numbers."""
    numbers = [name for name in table if table[name].dtype.kind in "fi" and table[name].notna().any()]
    return {"lines": len(table)} | {name: float(table[name].astype(float).mean()) for name in numbers}


# The page's list of sweeps with the first lines of a table, and its manifest.
FRAMES = """
        "frames": [json.loads(one.value.head(5).to_json(orient="split", double_precision=6)) for one in at.dataframe],
        "facts": [json.loads(one.value.to_json(orient="split")) for one in at.table],
        """


def shelf(folder: Path) -> dict:
    """What the Sweeps page shows of the stored sweep."""
    link = folder / "links.json"
    link.write_text(json.dumps({"shelf": f"sweeps?tab=Stored&folder={DATA / 'sweep'}"}))
    driver = DRIVER.replace('"warnings"', FRAMES.lstrip() + '"warnings"')
    (line,) = lines_of(python("-c", driver, ROOT, link, cache=folder / "cache"))
    return {name: line["shelf"][name] for name in ("frames", "facts", "commands", "problems")}


@pytest.mark.slow
def test_the_sweeps_page_shows_a_stored_sweep(tmp_path):
    now, old = shelf(tmp_path), told("summaries.json")["page"]
    assert old["problems"] == [] and len(old["frames"]) == 2 and len(old["facts"][0]["data"]) > 10
    assert now == old


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["base-to-tuned", "tuned-to-base"])
def test_the_report_of_a_stored_sweep_says_the_same(checkout, tmp_path, direction):
    out = tmp_path / "report.html"
    asked = ("--pair", "tiny", "--domain", "cultural", "--direction", direction, "--out", out)
    done = cli("report", *asked, cache=tmp_path / "cache", package=checkout, place=tmp_path)
    assert done.returncode == 0, done.stderr
    now = values(text_of(out.read_text(encoding="utf-8")))
    for sentence in told("summaries.json")["report"][direction]:
        assert " ".join(values(sentence)) in " ".join(now), sentence
    if direction == "base-to-tuned":
        assert now == values(text_of((DATA / "report.html").read_text(encoding="utf-8"))) and len(now) > 300


@pytest.mark.slow
def test_a_comparison_of_the_stored_sweep_says_the_same(checkout, tmp_path):
    asked = ("--a", "tiny@cultural", "--b", "tiny@cultural", "--direction", "tuned-to-base", "--depth", "0.5")
    done = cli("compare", *asked, cache=tmp_path / "cache", package=checkout, place=tmp_path)
    old = told("summaries.json")["compare"]
    assert done.returncode == 0 and values(done.stdout) == values(old) and len(values(old)) > 5, done.stderr


@pytest.fixture(scope="module")
def from_cache(tmp_path_factory):
    """What the command lines of cache.json say, and their tables, from a copy of the old cache."""
    place = tmp_path_factory.mktemp("cached")
    shutil.copytree(DATA / "answers", place / "cache")
    asked = [[*arguments, "--out", str(place / f"{name}.parquet")] for name, (arguments, _) in told("cache.json").items()]
    (place / "asked.json").write_text(json.dumps(asked))
    said = lines_of(python("-c", RUNNER, place / "asked.json", cache=place / "cache"))
    return {name: (*one, place / f"{name}.parquet") for name, one in zip(told("cache.json"), said)}


@pytest.mark.slow
@pytest.mark.parametrize("name", told("cache.json") if (DATA / "cache.json").exists() else [])
def test_an_old_cache_answers_at_once(from_cache, name):
    status, said, path = from_cache[name]
    question = told("cache.json")[name][0][1]
    assert status == 0 and f"{question}: 0 cells" in said, said
    assert summary_of(pd.read_parquet(path)) == pytest.approx(told("cache.json")[name][1], rel=1e-6, nan_ok=True)


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


STATUS = """
import json
from dataclasses import asdict
from mechdiff.study import sweep_process
(status,) = sweep_process.statuses()
pace = sweep_process.pace(status.request, "tiny")
print(json.dumps(asdict(status) | {"pace": pace, "arguments": status.request.arguments}))
"""


def test_a_stopped_sweep_can_be_resumed(tmp_path):
    """Its status file is read: which sweep it was, how far it came, and how fast."""
    old = told("status.json")
    (tmp_path / "sweeps").mkdir()
    shutil.copy(DATA / "status.json", tmp_path / "sweeps" / "tiny@cultural.json")
    (now,) = lines_of(python("-c", STATUS, cache=tmp_path))
    assert now["request"] == old["asked"] and now["cached"] == old["kept"] and now["state"] == "stopped"
    assert all(now[name] == old[name] for name in ("name", "domain", "done", "total", "started", "updated"))
    assert now["pace"] == (old["updated"] - old["started"]) / (old["done"] - old["kept"])
    flags = ["--domain", "cultural", "--grid", "quick", "--dtype", "float32", "--out", "/data/sweeps"]
    assert now["arguments"] == ["sweep", "--pair", "tiny.toml", *flags]


def test_shipped_sweeps_are_what_they_were():
    old = told("stored.json")
    found = {path.relative_to(ROOT / "mechdiff").as_posix(): path for path in ROOT.glob("mechdiff/artifacts/**/*.parquet")}
    assert found.keys() == old.keys()
    for name, path in found.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == old[name]["sha256"], name
