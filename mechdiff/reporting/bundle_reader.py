"""Reading a bundle that anyone may have written: everything is checked before it is used, in memory, within bounds."""

import io
import json
import struct
import zipfile
import zlib
from types import UnionType

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

MOST_TEXT = 1 << 20  # bytes of finding.json
PNG = b"\x89PNG\r\n\x1a\n"
TRY = "Try:  a bundle from the app's Export & share"


def broken(what: str) -> UserError:
    return UserError(f"This is not a finding bundle that can be read: {what}.\n{TRY}")


def read(content: bytes) -> Finding:
    """A bundle from its bytes. Raises UserError, with what is wrong, if it is broken, too large or in a later format."""
    files = unzipped(content)
    finding = parsed(files.get(FINDING, b""))
    if finding.get("format") != FORMAT:
        raise broken(f"its format is {finding.get('format')!r:.20}, and this mechdiff reads {FORMAT}")
    checked(finding, {"mechdiff": str, "link": str, "made": str, "entries": list, "titles": dict, "manifest": dict})
    if not LINK.fullmatch(finding["link"]):
        raise broken("its link leads out of the app")
    entries = tuple(entry(part, files) for part in finding["entries"])
    names = [part.name for part in entries]
    if len(set(names)) < len(names):
        raise broken("two of its tables have the same name")
    return Finding(
        clean(finding["mechdiff"]),
        finding["link"],
        clean(finding["made"]),
        headline(finding.get("headline"), len(entries)),
        entries,
        {name: clean(title) for name, title in finding["titles"].items()},
        finding["manifest"],
        {name: table(name, files[f"tables/{name}.parquet"]) for name in names},
        {name: picture(name, files.get(f"figures/{name}.png", b"")) for name in finding["titles"]},
        {name[8:-6]: prompts_of(name, part) for name, part in files.items() if name.startswith("prompts/")},
    )


def unzipped(content: bytes) -> dict[str, bytes]:
    """Every file of a zip, by name."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            if len(members) > MOST_FILES or sum(member.file_size for member in members) > MOST_BYTES:
                raise broken(f"it contains more than {MOST_FILES} files or {MOST_BYTES >> 20} MB")
            if wrong := [name for name in names if not FILES.fullmatch(name)]:
                raise broken(f"it contains a file {wrong[0]!r:.80}, which no bundle has")
            if len(set(names)) < len(names):
                raise broken("two of its files have the same name")
            return {name: archive.read(name) for name in names}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        raise broken(f"the zip is damaged ({error})") from None


def parsed(content: bytes) -> dict:
    """finding.json as a dictionary."""
    if not content or len(content) > MOST_TEXT:
        raise broken(f"{FINDING} is {'missing' if not content else 'too long'}")
    try:
        finding = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise broken(f"{FINDING} is not JSON ({error})") from None
    if not isinstance(finding, dict):
        raise broken(f"{FINDING} is not an object")
    return finding


def checked(part: object, kinds: dict[str, type | UnionType]) -> dict:
    """A part of finding.json as a dictionary. Raises UserError unless it has these keys with values of these types."""
    values = part if isinstance(part, dict) else {}
    for name, kind in kinds.items():
        if not isinstance(values.get(name), kind):
            raise broken(f"{FINDING} lacks a proper '{name}'")
    return values


def clean(text: object, most: int = 300) -> str:
    """Text for a person to read: nothing that a terminal obeys, and at most so many characters."""
    return "".join(letter for letter in str(text)[:most] if letter.isprintable())


def entry(part: object, files: dict) -> Entry:
    values = checked(part, {"name": str, "asked": dict, "command": str, "origin": dict})
    if f"tables/{values['name']}.parquet" not in files:
        raise broken(f"the table {values['name']!r:.80} is missing")
    request_json.check(values["asked"])
    origin = {clean(name): clean(value) for name, value in values["origin"].items()}
    return Entry(values["name"], values["asked"], clean(values["command"], 2000), origin)


def headline(part: object, count: int) -> Headline | None:
    if part is None:
        return None
    kinds = {"asked": str, "of": str, "value": int | float, "unit": str, "answer": int, "column": str, "where": dict}
    values = checked(part, kinds)
    where = values["where"]
    if not 0 <= values["answer"] < count or not all(isinstance(value, int | float | str) for value in where.values()):
        raise broken("its headline belongs to no table")
    words = clean(values["asked"]), clean(values["of"]), float(values["value"]), clean(values["unit"])
    return Headline(*words, values["answer"], clean(values["column"]), where)


def table(name: str, content: bytes) -> pd.DataFrame:
    """A parquet file of numbers, text and truth values, within bounds."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(io.BytesIO(content), thrift_string_size_limit=1 << 20, thrift_container_size_limit=1 << 20)
        schema = file.schema_arrow
        if file.metadata.num_rows * max(1, len(schema)) > MOST_CELLS:
            raise broken(f"the table {name} has more than {MOST_CELLS:,} cells")
        if wrong := [column.name for column in schema if not simple(column.type)]:
            raise broken(f"the table {name} has a column {wrong[0]!r:.60} that contains neither numbers nor text")
        words = [column.name for column in schema if not pa.types.is_primitive(column.type)]
        values = pq.read_table(io.BytesIO(content), read_dictionary=words).to_pandas(ignore_metadata=True)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise broken(f"the table {name} cannot be read ({str(error)[:100]})") from None
    return values.astype(dict.fromkeys((word for word in words if word in values), object))


def simple(kind) -> bool:
    """Whether a column's type is a number, text, or a truth value."""
    import pyarrow as pa

    words = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return words or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)


def picture(name: str, content: bytes) -> bytes:
    """A PNG of a size that can be shown."""
    if len(content) < 33 or content[:8] != PNG or content[12:16] != b"IHDR":
        raise broken(f"the figure {name!r:.80} is missing or not a PNG")
    width, height = struct.unpack(">II", content[16:24])
    if width * height > MOST_PIXELS:
        raise broken(f"the figure {name!r:.80} is larger than {MOST_PIXELS:,} pixels")
    return content


def prompts_of(name: str, content: bytes) -> list[Prompt]:
    try:
        return prompts.parse_prompts(content.decode().split("\n"), name)
    except UnicodeDecodeError:
        raise broken(f"{name} is not UTF-8 text") from None


def keep_texts(finding: Finding) -> None:
    """Store the prompts in a bundle where its requests and its link look for them."""
    for name, members in finding.texts.items():
        if prompts.keep_prompts(members) != OWN + name:
            raise broken(f"its prompts do not have the hash {name}")
