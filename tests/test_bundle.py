"""Finding bundles: written, read, computed anew on a tiny pair; and what a stranger's bundle may not do."""

import io
import json
import zipfile
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from support.random_pair import WORDS

from mechdiff import Run, UserError, questions
from mechdiff.__main__ import main
from mechdiff.common.cache import Store
from mechdiff.engine.intervention import Condition, Stack
from mechdiff.inputs import prompts
from mechdiff.questions.diagnostics.map_quality import Diagnostics
from mechdiff.questions.diagnostics.weight_overlap import Overlap
from mechdiff.questions.patch import Patch
from mechdiff.questions.prompt.next_tokens import NextTokens
from mechdiff.questions.prompt.position_map import PositionMap
from mechdiff.questions.prompt.reading import Reading
from mechdiff.reporting import bundle, bundle_reader, charts
from mechdiff.reporting.bundle import Answer, Headline
from mechdiff.reporting.replay import DIFFERS, OTHER, ROUNDING, SAME, UNCHECKED, ReplayTask, table_verdict
from mechdiff.study import compare_sweeps, request_json
from mechdiff.study.compare_sweeps import Comparison

LINK, FIGURE = "patching?prompts=8&layer=1", "figures/1-which-layers-states-move-the-next-token.png"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A folder of one's own for kept prompts."""
    monkeypatch.setattr(prompts, "CACHE", tmp_path / "kept")
    return tmp_path / "kept"


def answered(*requests) -> list[Answer]:
    return [Answer(request, questions.run(request), "python -m mechdiff ...") for request in requests]


def chart_of(table: pd.DataFrame) -> dict:
    lines = table.groupby("layer", as_index=False)["kl"].mean().rename(columns={"kl": "mean"})
    return charts.layer_curve(lines.assign(low=0.0, high=1.0, shown=charts.PATCHED, prompts=8, templates=5), 1).to_dict()


@pytest.fixture
def requests(study):
    run = Run("patch", layers=(1, 2), controls=("self",), **study)
    return (
        run,
        Run("drift", **study),
        Run("heads", layers=(2,), head_sets="0;1,3", **study),
        Run("transport", map="ridge", layers=(1,), controls=("self",), **study),
        Run("stack", stack="layer=1 stream=mlp_out; layer=2 heads=1,3", controls=("self",), **study),
        NextTokens(run, Condition(1, "resid_post"), 2),
        Reading(run.converted(Patch), 1),
        Diagnostics(Run("transport", map="ridge", layers=(1,), **study)),
    )


@pytest.fixture(scope="module")
def made_once() -> list[bytes]:
    """Where the first test's bundle stays for the others: it is of the same pair and the same requests."""
    return []


@pytest.fixture
def made(requests, cache, made_once) -> bytes:
    """A bundle of all kinds of requests, with its texts."""
    if not made_once:
        made_once.append(write_all(requests))
    return made_once[0]


def write_all(requests) -> bytes:
    answers = answered(*requests)
    mean = answers[0].table.query("layer == 1 and control == 'none'")["kl"].mean()
    headline = Headline("patch · L1", "tiny on none", mean, "nats", 0, "mean", {"layer": 1, "control": "none"})
    return bundle.write(answers, [chart_of(answers[0].table)], LINK, headline, texts=True)


def replayed(content: bytes, tmp_path, study: dict, **details) -> ReplayTask:
    finding = bundle_reader.read(content)
    bundle_reader.keep_texts(finding)
    task = ReplayTask(finding, Store(tmp_path / "anew"), pair=study["pair"], **{"device": "cpu"} | details)
    for _ in task.steps():
        pass
    return task


def changed(content: bytes, name: str, change) -> bytes:
    """The bundle with one of its files changed; a name that is not there makes a new file."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {member: archive.read(member) for member in archive.namelist()}
    return bundle.zipped(files | {name: change(files.get(name, b""))})


def told(change):
    """A change of finding.json."""

    def apply(content: bytes) -> bytes:
        finding = json.loads(content)
        change(finding)
        return json.dumps(finding).encode()

    return apply


def test_a_bundle_replays_to_the_same_numbers(made, study, tmp_path):
    task = replayed(made, tmp_path, study)
    assert {verdict.name: verdict.kind for verdict in task.verdicts} == dict.fromkeys(
        [entry.name for entry in task.finding.entries], SAME
    )
    assert len(task.verdicts) == 8 and all(verdict.values for verdict in task.verdicts) and task.done == task.total
    assert task.headline == pytest.approx(task.finding.headline.value, rel=1e-6)


def test_a_bundle_holds_what_was_seen(made, requests, tmp_path):
    finding = bundle_reader.read(made)
    assert finding.link == LINK and list(finding.titles.values()) == ["Which layers' states move the next token?"]
    first = finding.tables[finding.entries[0].name]
    pd.testing.assert_frame_equal(first.astype(object), questions.run(requests[0]).astype(object), check_dtype=False)
    assert finding.manifest["base"]["fingerprint"] == requests[0].spec.base.fingerprint()
    assert finding.manifest["dtype"] == "float32" and finding.manifest["versions"]["torch"]
    assert str(tmp_path) not in json.dumps([entry.asked for entry in finding.entries]), "no file of this machine"


def test_any_request_of_a_pair_file_can_be_written_and_replayed(study, tmp_path, cache):
    (tmp_path / "tiny.toml").write_text((tmp_path / "tiny.toml").read_text().replace('"none"', '"cultural"'))
    run, own = Patch(study["pair"], limit=2, device="cpu"), Run("weights", layers=(1,), **study)
    overlap = Answer(Overlap(own), pd.DataFrame({"k": [1], "overlap": [0.5]}))
    for request in (run, Reading(run), PositionMap(run), NextTokens(run, Condition(1, "resid_post"), 1), overlap.request):
        portable = bundle.portable(request)
        assert request_json.request(json.loads(json.dumps(request_json.plain(portable)))) == portable
    task = replayed(bundle.write([overlap], [], LINK, texts=True), tmp_path, study)
    assert task.verdicts[0].kind == DIFFERS, "it was computed"


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "kind"), [(1.0, SAME), (1.0001, ROUNDING), (1.05, DIFFERS)])
def test_the_verdict_follows_the_values(made, study, tmp_path, factor, kind):
    def scale(content: bytes) -> bytes:
        table = pd.read_parquet(io.BytesIO(content))
        table.loc[0, "kl"] *= factor
        return table.to_parquet(index=False)

    path = tmp_path / "b.zip"
    path.write_bytes(changed(made, "tables/1-patch.parquet", scale))
    checked = replayed(path.read_bytes(), tmp_path, study).verdicts[0]
    assert checked.kind == kind
    assert checked.relative == pytest.approx(1 - 1 / factor, rel=0.05, abs=1e-12)
    status = main(["replay", str(path), "--pair", study["pair"], "--device", "cpu"])
    assert status == (1 if kind == DIFFERS else 0)


@pytest.mark.slow
def test_other_weights_are_no_failure_of_the_finding(made, study, tmp_path, capsys):
    path = tmp_path / "b.zip"

    def other(finding):
        for entry in finding["entries"]:
            entry["origin"]["tuned"] = "someone else's"

    path.write_bytes(changed(made, "finding.json", told(other)))
    assert {verdict.kind for verdict in replayed(path.read_bytes(), tmp_path, study).verdicts} == {OTHER}
    assert main(["replay", str(path), "--pair", study["pair"], "--device", "cpu"]) == 2
    assert "weights of the tuned" in capsys.readouterr().out


@pytest.mark.slow
def test_own_prompts_stay_at_home_unless_they_are_to_go(study, requests, cache, tmp_path, monkeypatch):
    own = prompts.keep_prompts([prompts.Prompt(" ".join(WORDS[i : i + 4]), "t") for i in range(40, 48)])
    run = Run("patch", layers=(1,), **study | {"prompts": own})
    answers = answered(run, Reading(run, 0))
    words = charts.token_bars(pd.DataFrame({"token": ["w41"], "model": ["base"], "probability": [1.0]})).to_dict()
    silent, spoken = (bundle.write(answers, [chart_of(answers[0].table), words], LINK, texts=texts) for texts in (False, True))
    with zipfile.ZipFile(io.BytesIO(silent)) as archive:
        assert not any(b"w41" in archive.read(name) for name in archive.namelist())
        assert len([name for name in archive.namelist() if name.startswith("tables/")]) == 1
    monkeypatch.setattr(prompts, "CACHE", tmp_path / "elsewhere")
    (checked,) = replayed(silent, tmp_path, study).verdicts
    assert checked.kind == UNCHECKED and "no prompts of your own" in checked.text
    assert [verdict.kind for verdict in replayed(spoken, tmp_path, study).verdicts] == [SAME, SAME]


@pytest.mark.parametrize(
    "request_",
    [
        Run("rank", ranks=("0", "8"), alpha=("auto", "0.5"), limit=8, seed=3, target=" yes"),
        Comparison("demo-cultural", "demo-cognitive", depth=0.5),
        Diagnostics(Run("transport", map="ridge")),
        PositionMap(Run("patch", limit=8), 2),
        NextTokens(Run("patch", limit=4), Stack((Condition(1, "mlp_out"), Condition(2, "heads", heads=(1, 3), blend=0.5))), 1),
    ],
    ids=lambda request: type(request).__name__,
)
def test_a_request_comes_back_as_it_was(request_):
    assert request_json.request(json.loads(json.dumps(request_json.plain(request_)))) == request_


RUN = {"type": "Run", "question": "patch", "pair": "demo-cultural"}


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (RUN | {"shell": "rm"}, "no field 'shell'"),
        (RUN | {"type": "Popen"}, "not known"),
        (RUN | {"layers": "1,2"}, "Run.layers"),
        (RUN | {"limit": True}, "Run.limit"),
        (RUN | {"limit": 10**12}, "Run.limit"),
        (RUN | {"question": "heads", "blend": "1"}, "Run.blend"),
        ({"type": "Run"}, "needs the field 'question'"),
        ({"type": "NextTokens", "run": RUN, "condition": RUN, "prompt": 0}, "not known"),
        ([], "lacks a proper 'asked'"),
    ],
)
def test_a_request_that_is_none_is_refused_with_a_sentence(made, query, said):
    with pytest.raises(UserError, match=said):
        bundle_reader.read(changed(made, "finding.json", told(lambda document: document["entries"][0].update(asked=query))))


def flat(rows: int) -> bytes:
    """A small file that is a large table."""
    return pd.DataFrame({f"c{i}": np.zeros(rows) for i in range(40)}).to_parquet(index=False)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("../evil.py", lambda _: b"", "which no bundle has"),
        ("tables/../../evil.parquet", lambda _: b"", "which no bundle has"),
        ("tables/evil.pkl", lambda _: b"", "which no bundle has"),
        ("finding.json", lambda _: b"{" * 200_000, "not JSON"),
        ("finding.json", lambda _: b"", "missing"),
        ("finding.json", lambda _: b" " * (2 << 20), "too long"),
        ("finding.json", lambda _: b"[]", "is not an object"),
        ("finding.json", told(lambda document: document.update(format=99)), "its format is 99"),
        ("finding.json", told(lambda document: document.update(link="javascript:alert(1)")), "leads out"),
        ("finding.json", told(lambda document: document.update(link="//evil.org/?a=1")), "leads out"),
        ("finding.json", told(lambda document: document.pop("entries")), "lacks a proper 'entries'"),
        ("finding.json", told(lambda document: document["headline"].update(answer=77)), "belongs to no table"),
        ("finding.json", told(lambda document: document["entries"][0].update(name="../x")), "is missing"),
        ("finding.json", told(lambda document: document["titles"].update(other="x")), "is missing or not a PNG"),
        ("tables/1-patch.parquet", lambda _: b"PAR1 no table", "cannot be read"),
        ("tables/1-patch.parquet", lambda _: flat(600_000), "more than 20,000,000 cells"),
        ("tables/1-patch.parquet", lambda _: pd.DataFrame({"a": [[1, 2]]}).to_parquet(), "neither numbers nor text"),
        (FIGURE, lambda png: png[:16] + b"\x00\x01\x00\x00" * 2 + png[24:], "pixels"),
    ],
)
def test_a_strangers_bundle_is_refused_with_a_sentence(made, name, change, said):
    with pytest.raises(UserError, match=said):
        bundle_reader.read(changed(made, name, change))


@pytest.mark.slow
def test_what_is_no_zip_or_too_large_a_one_is_refused(made):
    for content in (b"", b"PK no zip", made[: len(made) // 2]):
        with pytest.raises(UserError, match="damaged"):
            bundle_reader.read(content)
    with pytest.raises(UserError, match="more than"):
        bundle_reader.read(bundle.zipped({f"tables/t{i}.parquet": b"" for i in range(300)}))
    with pytest.raises(UserError, match="MB"):
        bundle_reader.read(bundle.zipped({"tables/t.parquet": bytes(200 << 20)}))


@pytest.mark.parametrize("wrong", [{"prompts": "/etc/passwd"}, {"train": "/etc/passwd"}, {"pair": "/tmp/evil.toml"}])
def test_a_bundle_names_no_files_of_this_machine(made, tmp_path, wrong):
    finding = bundle_reader.read(
        changed(made, "finding.json", told(lambda document: document["entries"][0]["asked"].update(wrong)))
    )
    task = ReplayTask(replace(finding, entries=finding.entries[:1]), Store(tmp_path / "anew"))
    for _ in task.steps():
        pass
    (verdict,) = task.verdicts[:1]
    assert verdict.kind == UNCHECKED and ("may only name" in verdict.text or "not shipped" in verdict.text)


def test_prompts_under_anothers_name_are_refused(made):
    name = next(iter(bundle_reader.read(made).texts))
    with pytest.raises(UserError, match="do not have the hash"):
        bundle_reader.keep_texts(bundle_reader.read(changed(made, f"prompts/{name}.jsonl", lambda _: b'{"text": "others"}')))


def test_words_for_a_person_hold_nothing_that_a_terminal_obeys(made):
    finding = bundle_reader.read(
        changed(made, "finding.json", told(lambda document: document["headline"].update(asked="a\x1b[2Jb")))
    )
    assert finding.headline.asked == "a[2Jb"


def test_an_unreadable_bundle_gives_status_two(tmp_path, capsys):
    (tmp_path / "no.zip").write_bytes(b"no")
    assert main(["replay", str(tmp_path / "no.zip")]) == 2 and "not a finding bundle" in capsys.readouterr().err
    assert main(["replay", str(tmp_path / "none.zip")]) == 2 and "cannot be read" in capsys.readouterr().err


def test_tables_are_compared_by_their_lines_not_their_order():
    table = pd.DataFrame({"prompt": [0, 1, 2], "kl": [0.1, 0.2, np.nan]})
    assert table_verdict("t", table, table.iloc[::-1], "float32").kind == SAME
    assert table_verdict("t", table, table.iloc[:2], "float32").kind == DIFFERS
    half = table_verdict("t", table, table.assign(kl=[0.1, 0.2003, np.nan]), "float32")
    assert half.kind == ROUNDING and half.absolute == pytest.approx(3e-4) and half.relative == pytest.approx(3e-4 / 0.2003)
    assert table_verdict("t", table, table.assign(kl=[0.1, 0.21, np.nan]), "float32").kind == DIFFERS
    assert table_verdict("t", table, table.assign(kl=[0.1, 0.21, np.nan]), "bfloat16").kind == ROUNDING
    assert table_verdict("t", table, table.assign(kl=[0.1, 0.2, 0.3]), "float32").kind == DIFFERS, "a blank is no number"


@pytest.mark.slow
def test_a_comparison_of_stored_sweeps_replays_too(tmp_path, study, cache):
    comparison = Comparison("demo-cultural", "demo-cognitive")
    table = compare_sweeps.answer(comparison)
    task = replayed(bundle.write([Answer(comparison, table, comparison.command)], [], "compare"), tmp_path, study)
    assert task.verdicts[0].kind == SAME and task.verdicts[0].values == 6 * len(table)
