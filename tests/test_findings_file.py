"""Files of findings: written from the tables, and refused where a number is not theirs."""

import shutil

import pytest

from mechdiff import UserError
from mechdiff.cli.findings import README
from mechdiff.reporting import findings_file
from mechdiff.reporting.findings_file import check, filled


def test_every_number_of_the_shipped_findings_is_what_its_tables_say():
    assert check(README) > 500


@pytest.fixture
def copied(tmp_path):
    """A copy of the shipped findings, to be changed."""
    return shutil.copy(README, tmp_path / "README.md")


def changed(path, old, new):
    path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")


def test_a_changed_number_is_found_and_named_and_writing_mends_it(copied):
    sentence = next(line for line in copied.read_text(encoding="utf-8").splitlines() if line.startswith("- At layer"))
    changed(copied, sentence, sentence.replace("At layer 14", "At layer 13"))
    with pytest.raises(UserError, match=r"are not what its tables say(.|\n)*At layer 13(.|\n)*At layer 14"):
        check(copied)
    findings_file.write(copied)
    assert copied.read_text(encoding="utf-8") == README.read_text(encoding="utf-8")


@pytest.mark.parametrize("claim", ["It recovers 0.93 of it.", "That is 12 % more.", "About half [0.4, 0.6]."])
def test_a_number_that_nothing_checks_is_refused(copied, claim):
    changed(copied, "## What it means", f"## What it means\n\n{claim}")
    with pytest.raises(UserError, match="outside of its findings"):
        check(copied)


def test_a_file_without_findings_or_of_no_sweep_says_so(copied):
    with pytest.raises(UserError, match="cannot be read"):
        check(copied.parent / "none.md")
    copied.write_text("nothing\n")
    with pytest.raises(UserError, match="has no findings"):
        check(copied)
    copied.write_text("<!-- findings nobody -->\n<!-- end -->\n")
    with pytest.raises(UserError, match="nobody"):
        filled(copied.read_text())
