"""Reading prompts, and what the curated files hold."""

import json
import shutil

import pytest

from mechdiff.common.errors import UserError
from mechdiff.common.paths import SHIPPED_DOMAINS
from mechdiff.inputs import prompts, templates
from mechdiff.inputs.prompts import digest, read_domain, read_positions, read_prompts, shipped_domains

DOMAINS = shipped_domains()


def written(folder, content):
    path = folder / "mine.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


GOOD = '{"text": "What is 3 + 4?"}'


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (f"{GOOD}\n{{broken\n", "line 2 is not JSON"),
        (f"{GOOD}\n\n{GOOD}\nWhat is 3 + 4?\n", "line 4 is not JSON"),
        (f'{GOOD}\n{{"prompt": "hello"}}\n', 'line 2 has no "text"'),
        ('{"text": 3}\n', 'line 1 has no "text"'),
        ('["a", "b"]\n', 'line 1 has no "text"'),
        (f'{GOOD}\n{{"text": " \\n"}}\n', "line 2 has an empty text"),
        ("", "holds no prompts"),
        ("\n \n", "holds no prompts"),
        (b"\x89PNG\xff\xfe\x00", "is not UTF-8 text"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path, content, says):
    path = written(tmp_path, content)
    with pytest.raises(UserError, match=says) as caught:
        read_prompts(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["absent.jsonl", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path, name):
    with pytest.raises(UserError, match="cannot be read") as caught:
        read_prompts(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("text", ["  two spaces, and a line end \n", "a\tb", "сәлем 👋", "one\u2028two\x85three\x0cfour"])
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_the_text_is_verbatim(tmp_path, text, ascii_only, line_end):
    line = json.dumps({"text": text}, ensure_ascii=ascii_only)
    dataset = read_prompts(written(tmp_path, line + line_end + GOOD + line_end))
    assert [prompt.text for prompt in dataset] == [text, "What is 3 + 4?"]


def test_a_prompt_without_a_template_is_one_of_its_own(tmp_path):
    dataset = read_prompts(written(tmp_path, f'{GOOD}\n{GOOD}\n{{"text": "a", "template": "t"}}\n'))
    assert len({prompt.template for prompt in dataset}) == 3 and dataset[2].template == "t"


def test_the_digest_depends_on_texts_and_order_alone():
    a, b, ab, c, bc = (prompts.Prompt(text, "t") for text in ("a", "b", "ab", "c", "bc"))
    assert digest([a, b]) != digest([b, a]) != digest([a])
    assert digest([a]) == digest([prompts.Prompt("a", "another")])
    assert digest([ab, c]) != digest([a, bc])


def test_blocks_hold_every_prompt_in_order():
    many = [prompts.Prompt(str(i), "t") for i in range(2 * prompts.BLOCK + 3)]
    blocks = prompts.blocks(many)
    assert [len(block) for block in blocks] == [prompts.BLOCK, prompts.BLOCK, 3]
    assert [prompt for block in blocks for prompt in block] == many


@pytest.mark.parametrize("name", ["weather", "", "../data"])
def test_an_unknown_domain_is_answered_with_the_choices(name):
    with pytest.raises(UserError, match="Choose from: " + ", ".join(DOMAINS)):
        read_domain(name, "val")


@pytest.mark.parametrize("domain", DOMAINS)
def test_curated_prompts_have_the_sizes_and_templates_that_were_promised(domain):
    train, val = read_domain(domain, "train"), read_domain(domain, "val")
    assert (len(train), len(val)) == (350, 150)
    templates = {split: {prompt.template for prompt in part} for split, part in (("train", train), ("val", val))}
    assert len(templates["train"] | templates["val"]) >= 150 and len(templates["val"]) >= 45


@pytest.mark.parametrize("domain", DOMAINS)
def test_nothing_of_val_is_in_train(domain):
    train, val = read_domain(domain, "train"), read_domain(domain, "val")
    assert not {p.template for p in train} & {p.template for p in val}
    assert not {p.text for p in train} & {p.text for p in val}


@pytest.mark.parametrize("domain", DOMAINS)
def test_curated_ids_and_texts_are_unique(domain):
    lines = [
        line for split in ("train", "val") for line in (SHIPPED_DOMAINS / domain / f"{split}.jsonl").read_text().splitlines()
    ]
    rows = [json.loads(line) for line in lines]
    assert len({row["id"] for row in rows}) == len({row["text"] for row in rows}) == len(rows)


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_templates_give_exactly_the_shipped_files(domain, tmp_path, monkeypatch):
    (tmp_path / domain).mkdir()
    shutil.copy(SHIPPED_DOMAINS / domain / "templates.toml", tmp_path / domain)
    monkeypatch.setattr(templates, "SHIPPED_DOMAINS", tmp_path)
    templates.write_prompts(domain, seed=0)
    for split in ("train", "val"):
        assert (tmp_path / domain / f"{split}.jsonl").read_bytes() == (SHIPPED_DOMAINS / domain / f"{split}.jsonl").read_bytes()


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_train_prompt_has_its_positions(domain):
    positions = read_positions(domain)
    assert list(positions) == [prompt.text for prompt in read_domain(domain, "train")]
    for text, characters in positions.items():
        assert 0 < len(characters) <= 16 and characters == tuple(sorted(set(characters)))
        assert characters[0] >= 0 and characters[-1] < len(text)


@pytest.mark.parametrize("name", ["none", "", "../data"])
def test_another_domain_has_no_positions(name):
    assert read_positions(name) == {}


def test_slots_are_found_in_order_of_use():
    assert templates.slot_names("{trip[km]} km in {region}, {trip[hours]} hours") == ["trip", "region"]


def test_filling_says_when_there_are_too_few_texts():
    import random

    template = {"id": "t", "topic": "x", "text": "in {city}"}
    with pytest.raises(UserError, match="only 2 different prompts; 3 are needed"):
        templates.fill([template], {"city": ["Oslo", "Lima"]}, 3, random.Random(0))
