"""Makes this folder's files, with mechdiff 0.1.0: `python make.py`, a checkout of that version on PYTHONPATH.

It stands beside the files and their test, needs the demo pairs (`python -m mechdiff demo`), and takes some minutes. It is kept to
say how the files were made; a later mechdiff has no need of it, and may have other modules.
"""

import hashlib
import json
import re
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pandas as pd

DATA = Path(__file__).resolve().parent
sys.path[:0] = [str(DATA), str(DATA.parents[1])]
import test_old_files as test  # noqa: E402
from test_old_files import FINDINGS, ROOT, cli, lines_of, python, summary_of, text_of  # noqa: E402

OWN = [  # one's own prompts, as the Lab keeps them
    {"text": "Is it polite to arrive late to a dinner in Spain?", "template": "manners"},
    {"text": "Is it polite to finish all of the food in Japan?", "template": "manners"},
    {"text": "What do people bring to a wedding in India?", "template": "customs"},
    {"text": "What is 3 + 4?", "template": "sums", "answer": "7"},
]
LINKS = {  # a page's address with a selection that is not the default
    "home": "./?pair=demo-cognitive&domain=cultural&direction=tuned-to-base&prompts=8&behaviour=true",
    "drift": "drift?pair=demo-cultural&domain=cognitive&prompts=8&stream=mlp_out&layer=12",
    "patching": "patching?pair=demo-cultural&direction=tuned-to-base&prompts=8&layer=24&stream=attn_out&prompt=3"
    "&transplants=true",
    "patching-mapped": "patching?pair=demo-cultural&prompts=8&layer=27&stream=heads&map=ridge",
    "transport": "transport?pair=demo-cognitive&direction=tuned-to-base&prompts=8&layer=20&stream=mlp_out&fit=ridge&alpha=0.5"
    "&curve=true",
    "rank": "rank?pair=demo-cultural&prompts=16&layer=26&rank=16&complement=own&alpha=0.8&fit=procrustes&ranks=true",
    "heads": "heads?pair=demo-cultural&prompts=8&layer=21&heads=1&heads=3&blend=0.5",
    "heads-none": "heads?pair=demo-cognitive&domain=cultural&direction=tuned-to-base&prompts=8&layer=18&heads=",
    "weights": "weights?pair=demo-cognitive&layer=20&module=mlp.down_proj&shown=stable+rank&fit=ridge&overlap=true",
    "lab": "lab?pair=demo-cultural&direction=tuned-to-base&own={own}&own_prompt=1&back=1&horizon=4"
    "&stack=layer%3D20+stream%3Dmlp_out%3B+layer%3D26+stream%3Dheads+heads%3D2%2C5+blend%3D0.5&measure=target&target=+yes&foil=+no",
    "lab-domain": "lab?pair=demo-cognitive&prompts=16&own_prompt=5&stack=layer%3D24+stream%3Dresid_post+map%3Dridge+rank%3D8"
    "+complement%3Down&measure=recovery",
    "compare": "compare?direction=tuned-to-base&a_pair=demo-cognitive&a_domain=cultural&b_pair=demo-cultural&b_domain=own"
    "&rank_at=0.8&published=false",
    "sweeps": "sweeps?pair=demo-cognitive&domain=cultural&tab=Run&dtype=bfloat16&folder=my-sweeps"
    "&grid=full%3A+every+prompt%2C+map%2C+rank+and+set+of+heads",
}
TALK = """title = "What our adapter changed"

[[step]]
headline = "Two fine-tunes of one base: the late states change the next token"
page = "home"
show = ["effects", "drift"]
note = "Bands: 95 % over prompts."

[[step]]
headline = "From layer 16 on, the base's state moves the next token"
page = "patching"
pair = "demo-cultural"
prompts = 8
layer = 16
stream = "attn_out"
note = "For the speaker, on key N."

[[step]]
headline = "Sixteen directions are enough"
link = "http://localhost:8501/rank?pair=demo-cultural&prompts=16&layer=26&rank=8&complement=own&alpha=0.8&fit=procrustes"
rank = "16"
show = ["curve", "shares"]

[[step]]
headline = "Two heads carry a part of it"
page = "heads"
pair = "demo-cultural"
prompts = 8
layer = 21
heads = [1, 3]
blend = 0.5
show = ["map", "bars"]

[[step]]
headline = "The two fine-tunes side by side"
page = "compare"
a_pair = "demo-cultural"
b_pair = "demo-cognitive"
rank_at = "0.8"
published = false
show = ["verdict", "effect"]
"""
SETTINGS = ["--pair", "tiny/tiny.toml", "--prompts", "tiny/prompts.jsonl", "--train", "tiny/train.jsonl", "--device", "cpu"]
CACHED = {  # command lines whose answers are in the old cache
    "drift": ["run", "drift", "--streams", "resid_post,mlp_out"],
    "patch": ["run", "patch", "--streams", "resid_post,heads", "--controls", "self,mean,random"],
    "patch-place": ["run", "patch", "--back", "1", "--horizon", "3", "--direction", "tuned-to-base", "--controls", "self"],
    "transport": ["run", "transport", "--map", "ridge", "--alpha", "auto,0.8", "--controls", "self,shuffled,other-layer"],
    "rank": ["run", "rank", "--layers", "1", "--ranks", "0,1,8,full", "--controls", "self,mean,random"],
    "heads": ["run", "heads", "--head-sets", "0;1;0,1", "--blend", "0.5"],
    "heads-greedy": ["run", "heads", "--layers", "1", "--head-sets", "greedy", "--controls", "self"],
    "transplant": ["run", "transplant", "--streams", "attn_out,mlp_out,heads", "--direction", "tuned-to-base"],
    "stack": ["run", "stack", "--stack", "layer=0 stream=mlp_out; layer=1 map=ridge rank=4", "--controls", "self"],
    "weights": ["run", "weights", "--layers", "1"],
    "behaviour": ["run", "behaviour", "--layers", "1", "--controls", "self", "--new-tokens", "4"],
}


def write(name: str, found) -> None:
    text = found if isinstance(found, str) else json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    (DATA / name).parent.mkdir(parents=True, exist_ok=True)
    (DATA / name).write_text(text, encoding="utf-8")


def fine(done) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tiny() -> None:
    """The pair of random models that the sweep, the cache and the second bundle are of, with prompts and a train split."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    place = ROOT / "mechdiff" / "data" / "cultural"
    rows = {split: [json.loads(line) for line in (place / f"{split}.jsonl").open()] for split in ("val", "train")}
    counts = Counter(word for some in rows.values() for row in some for word in row["text"].split())
    words = dict.fromkeys(["<pad>", "<s>", "</s>", "<unk>", "yes", "no", *(word for word, _ in counts.most_common(200))])
    tokens = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    sizes = {"vocab_size": len(words), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024, "tie_word_embeddings": True}
    for side, seed in (("base", 0), ("tuned", 1)):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **sizes)).eval()
        for parameter in (one for one in model.parameters() if one.ndim > 1):
            torch.nn.init.normal_(parameter, std=0.25)
        model.save_pretrained(DATA / "tiny" / side)
        tokenizer.save_pretrained(DATA / "tiny" / side)
    write("tiny/tiny.toml", 'domain = "cultural"\n[base]\nfolder = "base"\n[tuned]\nfolder = "tuned"\n')
    for name, split, count in (("prompts", "val", 6), ("train", "train", 40)):
        write(f"tiny/{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows[split][:count]))


def own() -> str:
    """One's own prompts where the Lab keeps them: a file of its cache folder, called by a hash. Returns that."""
    code = f"import mechdiff\nprint(mechdiff.keep_prompts([mechdiff.Prompt(**one) for one in {OWN!r}]))"
    with tempfile.TemporaryDirectory() as cache:
        name = fine(python("-c", code, cache=Path(cache))).strip().removeprefix("own:")
        shutil.copytree(Path(cache) / "prompts", DATA / "prompts", dirs_exist_ok=True)
    return name


def links(name: str) -> None:
    """What every page asks for on the demo pairs, with the demo's own cache."""
    from mechdiff.paths import CACHE

    shutil.copytree(DATA / "prompts", CACHE / "prompts", dirs_exist_ok=True)
    asked = {page: link.replace("{own}", name) for page, link in LINKS.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "links.json"
        path.write_text(json.dumps(asked))
        found = {page: one for line in lines_of(python("-c", test.DRIVER, ROOT, path, cache=CACHE)) for page, one in line.items()}
    for one in found.values():
        print(one["page"], one.pop("seconds"), "s", one["problems"], one["warnings"])
    from mechdiff import Run, plain
    from mechdiff.terms import QUESTIONS

    usual = {name: plain.plain(Run(name, stack="layer=0" if name == "stack" else None)) for name in QUESTIONS}
    write("defaults.json", usual)
    write("links.json", {page: {"link": asked[page]} | one for page, one in found.items()})


def taken(name: str, page: str, address: str) -> tuple:
    """A page opened in this process: what it has shown, its link, and the app's module that gives it away."""
    from urllib.parse import parse_qs

    from streamlit.testing.v1 import AppTest

    if str(ROOT / "app") not in sys.path:
        sys.path.insert(0, str(ROOT / "app"))
    import session
    import takeaway

    session.PATIENCE = 3600.0
    code = f"import session\nfrom views import {page}\nsession.frame({page}.page, '{page}')\n"
    at = AppTest.from_string(code, default_timeout=3600)
    for key, values in parse_qs(address.partition("?")[2], keep_blank_values=True).items():
        at.query_params[key] = values
    at.run()
    while at.session_state["_pending"]:
        at.run()
    assert not at.exception and not at.error
    return at.session_state["_shown"], address, takeaway


def take_away() -> None:
    """What Take it away gives: a bundle and a notebook of Patching, every page's snippet, and Compare's notebook."""
    from functools import partial

    from mechdiff import bundle, notebooks

    asked = {name: one["link"] for name, one in json.loads((DATA / "links.json").read_text()).items()}
    for name, address in asked.items():
        page = name.partition("-")[0]
        if page == "sweeps":
            continue
        found, link, takeaway = taken(name, page, address)
        request = takeaway.main_request(found)
        kind = getattr(request, "question", "compare")
        write(f"snippets/{kind}-{name}.py", notebooks.snippet(request, found.headline, texts=True))
        make = partial(notebooks.notebook, request, found.headline, link, takeaway.command_of(found.answers[request]))
        if name == "compare":
            (DATA / "compare.ipynb").write_bytes(make())
        if name == "patching":
            (DATA / "finding.ipynb").write_bytes(make())
            answers = [bundle.Answer(one.request, one.table, takeaway.command_of(one)) for one in found.answers.values()]
            specs = [takeaway.specification(figure) for figure in found.charts][:2]
            (DATA / "finding.zip").write_bytes(bundle.write(answers, specs, link, found.headline))
    with tempfile.TemporaryDirectory() as cache:
        write("compare.txt", test.run_notebook("compare.ipynb", Path(cache))[1])


BUNDLE = """
import sys
from dataclasses import replace
from pathlib import Path
from mechdiff import Prompt, Run, bundle, charts, experiments, keep_prompts
from mechdiff.conditions import Condition
from mechdiff.experiments import Diagnostics, NextTokens, Overlap, PositionMap, Reading

mine = keep_prompts([Prompt(**one) for one in OWN])
asked = {"pair": "tiny", "prompts": mine, "device": "cpu"}
run = Run("patch", controls=("self",), **asked)
requests = [
    run,
    Run("patch", layers=(1,), streams=("mlp_out",), back=1, horizon=3, direction="tuned-to-base", **asked),
    Run("drift", streams=("resid_post", "mlp_out"), **asked),
    Run("transport", map="ridge", alpha=("auto", "0.8"), controls=("self", "shuffled"), **asked),
    Run("rank", layers=(1,), ranks=("0", "1", "8", "full"), controls=("self", "mean"), **asked),
    Run("heads", layers=(1,), head_sets="0;3;0,2", controls=("self",), **asked),
    Run("heads", layers=(1,), head_sets="topk", **asked),
    Run("transplant", controls=("self",), **asked),
    Run("stack", stack="layer=0 stream=mlp_out; layer=1 map=ridge rank=4", controls=("self",), **asked),
    Run("weights", **asked),
    Run("behaviour", layers=(1,), controls=("self",), new_tokens=6, **asked),
    NextTokens(replace(run, controls=()), Condition(1, "resid_post"), 2),
    Reading(run, 1),
    PositionMap(replace(run, controls=())),
    Diagnostics(Run("transport", map="procrustes", layers=(1,), **asked)),
    Overlap(Run("weights", map="ridge", layers=(1,), **asked)),
]
answers = [bundle.Answer(one, experiments.run(one), "python -m mechdiff run ...") for one in requests]
lines = answers[0].table.groupby(["layer", "control"], as_index=False)["kl"].mean().rename(columns={"kl": "mean"})
shown = lines["control"].map(charts.CONTROL_NAMES).fillna(charts.PATCHED)
chart = charts.layer_curve(lines.assign(low=0.0, high=1.0, shown=shown, prompts=4, templates=3), 1).to_dict(validate=False)
(value,) = lines.loc[(lines["layer"] == 1) & (lines["control"] == "none"), "mean"]
told = bundle.Headline("patch · resid_post · L1", "tiny on cultural", value, "nats", 0, "mean", {"layer": 1, "control": "none"})
Path("finding-tiny.zip").write_bytes(bundle.write(answers, [chart], "patching?layer=1", told, texts=True))
"""


def bundles() -> None:
    """A bundle with every kind of request, and what a replay of both says."""
    from mechdiff.paths import CACHE

    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        test.add_tiny(cache)
        fine(python("-c", f"OWN = {OWN!r}\n{BUNDLE}", cache=cache))
        (cache / "models").symlink_to(CACHE / "models", target_is_directory=True)
        found = {name: cli("replay", name, "--device", "cpu", *more, cache=cache) for name, more in FINDINGS.items()}
    for name, done in found.items():
        found[name] = {"exit": done.returncode, "output": done.stdout}
        print(done.stdout)
    write("replay.json", found)


def sweep() -> None:
    """A sweep by the command line, into a copy of the checkout."""
    with tempfile.TemporaryDirectory() as folder:
        artifacts = test.copied(Path(folder))
        where = {"cache": Path(folder) / "cache", "place": DATA / "tiny", "package": Path(folder)}
        for grid in ("quick", "behaviour"):
            fine(cli("sweep", "--pair", "tiny.toml", "--grid", grid, **where))
        shutil.copytree(artifacts, DATA / "sweep", dirs_exist_ok=True)


def said() -> None:
    """What is said of that sweep: its tables' means, its report, a comparison with itself, and the Sweeps page."""
    sentences = {}
    with tempfile.TemporaryDirectory() as folder:
        where = {"cache": Path(folder) / "cache", "place": Path(folder), "package": Path(folder)}
        shutil.copytree(DATA / "sweep", test.copied(Path(folder)))
        out = DATA / "report.html"
        for direction in ("tuned-to-base", "base-to-tuned"):  # the second one's report stays
            fine(cli("report", "--pair", "tiny", "--domain", "cultural", "--direction", direction, "--out", out, **where))
            parts = re.findall(r"[A-Z][^.?!]*\d[^?!]*?[.](?= [A-Z]|$)", text_of(out.read_text(encoding="utf-8")))
            sentences[direction] = [part for part in parts if 40 < len(part) < 400][:25]
        asked = ("--a", "tiny@cultural", "--b", "tiny@cultural", "--direction", "tuned-to-base", "--depth", "0.5")
        compared = fine(cli("compare", *asked, **where))
    tables = {path.relative_to(DATA / "sweep").as_posix(): summary_of(pd.read_parquet(path)) for path in test.stored_tables()}
    found = {"tables": tables, "report": sentences, "compare": compared}
    write("summaries.json", found | {"page": test.shelf(Path(tempfile.mkdtemp()))})


def cache() -> None:
    """A cache folder with the answers to some command lines."""
    shutil.rmtree(DATA / "answers", ignore_errors=True)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, asked in CACHED.items():
            out = Path(folder) / f"{name}.parquet"
            fine(cli(*asked, *SETTINGS, "--out", out, cache=DATA / "answers"))
            found[name] = [asked + SETTINGS, summary_of(pd.read_parquet(out))]
    for path in (DATA / "answers").iterdir():
        if path.name != "results":
            shutil.rmtree(path)
    write("cache.json", found)


def status() -> None:
    """The status file of an interrupted sweep."""
    from mechdiff import running

    running.FOLDER = Path(tempfile.mkdtemp())
    asked = running.Asked("tiny.toml", "cultural", "quick", "float32", out="/data/sweeps")
    times = 1795000000.0, 1795000001.0, 1795000901.0  # born, started, updated
    running.write(running.Status(asked, "tiny", "cultural", 1234, *times, "heads: patching", 2000, 6000, 200))
    (path,) = running.FOLDER.glob("*.json")
    write("status.json", path.read_text(encoding="utf-8") + "\n")


def shipped() -> None:
    """The fingerprint of every shipped sweep's tables."""
    found = {}
    for path in sorted(ROOT.glob("mechdiff/artifacts/**/*.parquet")):
        table = pd.read_parquet(path)
        what = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "rows": len(table), "columns": list(table)}
        found[path.relative_to(ROOT / "mechdiff").as_posix()] = what
    write("stored.json", found)


def main() -> None:
    steps = sys.argv[1:] or ["tiny", "links", "take_away", "bundles", "sweep", "said", "cache", "talk", "status", "shipped"]
    for step in steps:
        print(step, flush=True)
        if step == "links":
            links(own())
        elif step == "talk":
            write("my-talk.toml", TALK)
            pages = ["".join(found) for found in re.findall(r"page = \"(\w+)\"|8501/(\w+)", TALK)]
            write("talk.json", {"steps": [[str(n), page] for n, page in enumerate(pages, 1)]})
        else:
            globals()[step]()


if __name__ == "__main__":
    main()
