"""A new question costs one file: it is on the command line, and has a page with its fields, its table and a chart."""

import dataclasses
import sys

import pages
import pandas as pd
import pytest
from question_form import SIDEBAR
from streamlit.testing.v1 import AppTest
from support.app_page import charts_of, fine, script

import mechdiff
from mechdiff import Run, questions
from mechdiff.__main__ import main
from mechdiff.questions import QUESTIONS
from mechdiff.questions.shared.request import Question
from mechdiff.reporting import bundle, bundle_reader, charts
from mechdiff.reporting.charts import question as default_chart

pytestmark = pytest.mark.usefixtures("patient")
FILE = '''"""Lengths: how long are the prompts?"""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar

import pandas as pd
from msgspec import Meta

from mechdiff.common.cache import key
from mechdiff.inputs import prompts
from mechdiff.questions.shared.fields import flag
from mechdiff.questions.shared.request import Question
from mechdiff.questions.shared.table_tasks import TableTask


@dataclass(frozen=True)
class Lengths(Question):
    """Counts letters or words, once for every layer."""

    question: ClassVar[str] = "lengths"
    title: ClassVar[str] = "How long are the prompts?"

    of: tuple[str, ...] = flag(("letters", "words"), "what is counted", choices=("letters", "words"))
    power: Annotated[int, Meta(ge=1, le=3)] = flag(1, "to which power", must="1, 2 or 3", example="2")
    share: Annotated[float, Meta(ge=0, le=1)] = flag(1.0, "of the prompts that are counted")
    note: str | None = flag(None, "anything")
    upper: bool = flag(False, "whether capitals count twice")

    def task(self, store):
        return LengthsTask(self, store)


class LengthsTask(TableTask):
    columns = ["layer", "of", "length", "length_low", "length_high"]

    @cached_property
    def key(self):
        run = self.run
        return key(what="lengths", texts=prompts.digest(run.chosen_prompts), of=run.of, power=run.power, layers=run.chosen_layers)

    def compute(self):
        yield
        texts = [prompt.text for prompt in self.run.chosen_prompts]
        counts = {"letters": sum(map(len, texts)) / len(texts), "words": sum(len(t.split()) for t in texts) / len(texts)}
        sizes = {of: counts[of] ** self.run.power for of in self.run.of}
        lines = [(layer, of, size * (1 + layer)) for layer in self.run.chosen_layers for of, size in sizes.items()]
        table = pd.DataFrame(lines, columns=self.columns[:3])
        return table.assign(length_low=0.9 * table["length"], length_high=1.1 * table["length"])
'''


@pytest.fixture
def lengths(tmp_path, monkeypatch):
    """The question in a file of its own, found as those in mechdiff/questions are."""
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "lengths.py").write_text(FILE)
    monkeypatch.setattr(questions, "__path__", [*questions.__path__, str(folder)])
    questions.register()
    yield "lengths"
    del QUESTIONS["lengths"], sys.modules["mechdiff.questions.lengths"]


def open_question(name: str, **query) -> AppTest:
    code = f"import session\nfrom pages import sections\nsession.frame(sections()[{pages.MORE!r}][{name!r}].draw, {name!r})\n"
    return fine(script(code, **query).run())


def shown(at: AppTest) -> pd.DataFrame:
    return next(frame.value for frame in at.dataframe if "length" in frame.value)


def test_every_question_has_one_page():
    answered = [name for section in pages.sections().values() for page in section.values() for name in page.questions]
    assert sorted(answered) == sorted(QUESTIONS) and pages.MORE not in pages.sections()


def test_a_new_question_appears_in_the_sidebar(lengths):
    assert list(pages.sections()[pages.MORE]) == ["lengths"]


def test_a_question_cannot_take_another_pages_address(monkeypatch):
    monkeypatch.setitem(QUESTIONS, "sweeps", QUESTIONS["drift"])
    assert list(pages.sections()[pages.MORE]) == ["sweeps_question"]


def test_its_form_has_its_fields(lengths, tiny):
    at = open_question("lengths")
    widgets = [*at.multiselect, *at.number_input, *at.text_input, *at.toggle, *at.selectbox]
    keys = {widget.key.removeprefix("lengths_") for widget in widgets if widget.key.startswith("lengths_")}
    fields = {spec.name for spec in dataclasses.fields(QUESTIONS["lengths"])}
    assert keys == fields - set(SIDEBAR) | {"compute"}
    assert at.number_input(key="lengths_power").min == 1 and at.number_input(key="lengths_power").max == 3
    assert at.multiselect(key="lengths_of").value == ["letters", "words"] and at.toggle(key="lengths_upper").value is False
    assert "what is counted" in at.multiselect(key="lengths_of").help


def test_it_computes_nothing_until_it_is_told_to(lengths, tiny):
    at = open_question("lengths")
    assert not charts_of(at) and any("No results yet" in info.value for info in at.info)
    at.toggle(key="lengths_compute").set_value(True).run()
    pd.testing.assert_frame_equal(shown(fine(at)), mechdiff.run(Run("lengths", **tiny)))
    known = open_question("lengths")
    assert len(charts_of(known)) == 1, "what is known is shown at once"


def test_its_link_holds_its_fields(lengths, tiny):
    at = open_question("lengths", lengths_power="2", lengths_of="words", lengths_layers="0,2", lengths_compute="true")
    run = Run("lengths", power=2, of="words", layers="0,2", **tiny)
    pd.testing.assert_frame_equal(shown(at), mechdiff.run(run))
    assert any("--of words" in code.value and "--power 2" in code.value for code in at.code)
    assert at.query_params["lengths_power"] in ("2", ["2"])
    (spec,) = charts_of(at)
    assert spec["title"]["text"] == "How long are the prompts?"


def test_what_its_dataclass_refuses_is_said_on_the_page(lengths, tiny):
    code = "import session, pages\nsession.frame(pages.sections()[pages.MORE]['lengths'].draw, 'lengths')\n"
    at = script(code, lengths_layers="zero").run()
    assert not at.exception and "Layers 'zero' is not valid" in at.error[0].value


def test_it_is_on_the_command_line(lengths, tiny, tmp_path, capsys):
    out = tmp_path / "lengths.csv"
    line = ["run", "lengths", "--pair", tiny["pair"], "--prompts", tiny["prompts"], "--limit", "4", "--power", "3"]
    assert main([*line, "--out", str(out)]) == 0
    assert len(pd.read_csv(out)) == 2 * Run("lengths", **tiny).spec.layers
    assert main(["run", "lengths", "--power", "4"]) == 2 and "1, 2 or 3" in capsys.readouterr().err


def test_a_bundle_holds_it(lengths, tiny):
    run = Run("lengths", **tiny)
    answer = bundle.Answer(run, mechdiff.run(run))
    finding = bundle_reader.read(bundle.write([answer], [], "lengths?lengths_power=1"))
    assert len(finding.tables) == 1 and finding.link == "lengths?lengths_power=1"


@pytest.mark.parametrize("question", ["patch", "drift", "weights"])
def test_the_default_chart_draws_the_other_questions_too(question, tiny):
    run = Run(question, **({"controls": ("self",)} if question == "patch" else {}), **tiny)
    lines = run.summary(mechdiff.run(run))
    charts.question_chart(lines, run.title, 1).to_dict()


def test_an_interval_is_of_the_number_that_it_holds():
    table = pd.DataFrame({"layer": [0, 1], "cka": [0.9, 0.5], "low": [0.95, 0.4], "high": [1.0, 0.6]})
    assert (default_chart.with_interval(table, "cka")["low"] == table["cka"]).all(), "the interval is not of this number"
    assert (default_chart.with_interval(table.iloc[1:], "cka")["low"] == 0.4).all()


def test_a_table_without_numbers_has_no_chart():
    assert charts.question_chart(pd.DataFrame({"layer": [0], "word": ["a"]}), "?") is None


def test_every_inherited_field_is_in_the_form_or_in_the_sidebar():
    assert set(SIDEBAR) < {spec.name for spec in dataclasses.fields(Question)}
