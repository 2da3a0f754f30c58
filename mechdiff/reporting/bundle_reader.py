"""Reading a bundle that anyone may have written: everything is looked at before it is used, in memory, within bounds."""

import io
import json
import struct
import zipfile
import zlib

import pandas as pd

from mechdiff.common.errors import UserError
from mechdiff.inputs import prompts
from mechdiff.inputs.prompts import OWN, Prompt
from mechdiff.reporting.bundle import (
    FILES,
    FINDING,
    FORMAT,
    LINK,
    MOST_BYTES,
    MOST_CELLS,
    MOST_FILES,
    MOST_PIXELS,
    Entry,
    Finding,
    Headline,
)
from mechdiff.study import request_json

MOST_TOLD = 1 << 20  # bytes of finding.json
PNG = b"\x89PNG\r\n\x1a\n"
TRY = "Try:  a bundle as the app's Take it away gives it"


def broken(what: str) -> UserError:
    return UserError(f"This is not a finding bundle that can be read: {what}.\n{TRY}")


def read(content: bytes) -> Finding:
    """A bundle from its bytes. Raises UserError, with what is wrong, for one that is broken, too large or of a later format."""
    files = unzipped(content)
    told = parsed(files.get(FINDING, b""))
    if told.get("format") != FORMAT:
        raise broken(f"its format is {told.get('format')!r:.20}, and this mechdiff reads {FORMAT}")
    shape(told, {"mechdiff": str, "link": str, "made": str, "entries": list, "titles": dict, "manifest": dict})
    if not LINK.fullmatch(told["link"]):
        raise broken("its link leads out of the app")
    entries = tuple(entry(found, files) for found in told["entries"])
    names = [one.name for one in entries]
    if len(set(names)) < len(names):
        raise broken("two of its tables have one name")
    tables = {name: table(name, files[f"tables/{name}.parquet"]) for name in names}
    pictures = {name: picture(name, files.get(f"figures/{name}.png", b"")) for name in told["titles"]}
    titles = {name: clean(title) for name, title in told["titles"].items()}
    found = headline(told.get("headline"), len(entries))
    texts = {name[8:-6]: spoken(name, part) for name, part in files.items() if name.startswith("prompts/")}
    words = clean(told["mechdiff"]), told["link"], clean(told["made"])
    return Finding(*words, found, entries, titles, told["manifest"], tables, pictures, texts)


def unzipped(content: bytes) -> dict[str, bytes]:
    """Every file of a zip, by name."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            listed = archive.infolist()
            names = [one.filename for one in listed]
            if len(listed) > MOST_FILES or sum(one.file_size for one in listed) > MOST_BYTES:
                raise broken(f"it holds more than {MOST_FILES} files or {MOST_BYTES >> 20} MB")
            if wrong := [name for name in names if not FILES.fullmatch(name)]:
                raise broken(f"it holds a file {wrong[0]!r:.80}, which no bundle has")
            if len(set(names)) < len(names):
                raise broken("two of its files have one name")
            return {name: archive.read(name) for name in names}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        raise broken(f"the zip is damaged ({error})") from None


def parsed(content: bytes) -> dict:
    """finding.json as a dictionary."""
    if not content or len(content) > MOST_TOLD:
        raise broken(f"{FINDING} is {'missing' if not content else 'too long'}")
    try:
        told = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise broken(f"{FINDING} is not JSON ({error})") from None
    if not isinstance(told, dict):
        raise broken(f"{FINDING} holds no finding")
    return told


def shape(found: object, kinds: dict[str, type]) -> None:
    """Raises UserError unless the dictionary has these keys with values of these types."""
    for name, kind in kinds.items():
        if not isinstance(found, dict) or not isinstance(found.get(name), kind):
            raise broken(f"{FINDING} lacks a proper '{name}'")


def clean(text: object, most: int = 300) -> str:
    """Words for a person to read: nothing that a terminal obeys, and not too many."""
    return "".join(letter for letter in str(text)[:most] if letter.isprintable())


def entry(found: object, files: dict) -> Entry:
    shape(found, {"name": str, "asked": dict, "command": str, "origin": dict})
    if f"tables/{found['name']}.parquet" not in files:
        raise broken(f"the table {found['name']!r:.80} is missing")
    request_json.check(found["asked"])
    origin = {clean(name): clean(value) for name, value in found["origin"].items()}
    return Entry(found["name"], found["asked"], clean(found["command"], 2000), origin)


def headline(found: object, count: int) -> Headline | None:
    if found is None:
        return None
    shape(found, {"asked": str, "of": str, "value": int | float, "unit": str, "answer": int, "column": str, "where": dict})
    where = found["where"]
    if not 0 <= found["answer"] < count or not all(isinstance(value, int | float | str) for value in where.values()):
        raise broken("its headline belongs to no table")
    words = clean(found["asked"]), clean(found["of"]), float(found["value"]), clean(found["unit"])
    return Headline(*words, found["answer"], clean(found["column"]), where)


def table(name: str, content: bytes) -> pd.DataFrame:
    """A parquet file of numbers, words and truth values, within bounds."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(io.BytesIO(content), thrift_string_size_limit=1 << 20, thrift_container_size_limit=1 << 20)
        schema = file.schema_arrow
        if file.metadata.num_rows * max(1, len(schema)) > MOST_CELLS:
            raise broken(f"the table {name} has more than {MOST_CELLS:,} cells")
        if wrong := [one.name for one in schema if not simple(one.type)]:
            raise broken(f"the table {name} has a column {wrong[0]!r:.60} that holds neither numbers nor words")
        words = [one.name for one in schema if not pa.types.is_primitive(one.type)]
        found = pq.read_table(io.BytesIO(content), read_dictionary=words).to_pandas(ignore_metadata=True)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise broken(f"the table {name} cannot be read ({str(error)[:100]})") from None
    return found.astype(dict.fromkeys((word for word in words if word in found), object))


def simple(kind) -> bool:
    """Whether a column's type is a number, a word, or a truth value."""
    import pyarrow as pa

    words = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return words or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)


def picture(name: str, content: bytes) -> bytes:
    """A PNG of a size that can be shown."""
    if len(content) < 33 or content[:8] != PNG or content[12:16] != b"IHDR":
        raise broken(f"the figure {name!r:.80} is missing, or no PNG")
    width, height = struct.unpack(">II", content[16:24])
    if width * height > MOST_PIXELS:
        raise broken(f"the figure {name!r:.80} is larger than {MOST_PIXELS:,} pixels")
    return content


def spoken(name: str, content: bytes) -> list[Prompt]:
    try:
        return prompts.parse_prompts(content.decode().split("\n"), name)
    except UnicodeDecodeError:
        raise broken(f"{name} is not UTF-8 text") from None


def keep_texts(finding: Finding) -> None:
    """Keep the prompts that a bundle brings along where its requests and its link look for them."""
    for name, found in finding.texts.items():
        if prompts.keep_prompts(found) != OWN + name:
            raise broken(f"its prompts are not those that were named {name}")
