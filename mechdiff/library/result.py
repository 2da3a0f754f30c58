"""The answer to a request: its table, and what a reader needs with it."""

import html
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from mechdiff.common.errors import UserError
from mechdiff.inputs.pair_file import described
from mechdiff.library.own_rows import OwnRows, kind_in_file
from mechdiff.questions import QUESTIONS, EffectQuestion, Question
from mechdiff.questions.shared.command import command

SHOWN = 12  # lines of a summary that a notebook shows
METADATA = b"mechdiff"  # the name under which a parquet file holds what is not its table


class Result:
    """The answer to one request.

    request: the question. table: a row per prompt and condition (drift and weights: per layer and stream or module); effects in
    nats. notices: what a reader should know, such as prompts that were left out. provenance: models and their fingerprints,
    precision, device, prompts, seed and versions. A pair's methods make it.

    Example:
        >>> result = pair.patch(layers=[0, 1], limit=4)
        >>> result.summary()["mean"].shape
        (2,)
    """

    def __init__(self, request: Question, table: pd.DataFrame, notices: Sequence[str] = (), provenance: dict | None = None):
        self.request, self.table = request, table
        self.notices, self.provenance = list(notices), provenance or {}

    @cached_property
    def _summary(self) -> pd.DataFrame:
        return self.request.summary(self.table)

    def summary(self) -> pd.DataFrame:
        """A row per condition: mean over prompts in nats, 95 % interval, prompts and templates, and the ratios that apply.

        The intervals are computed once. A table that is not per prompt (drift, weights) is returned as it is.

        Example:
            >>> {"mean", "low", "high"} <= set(pair.patch(layers=1, limit=4).summary())
            True
        """
        return self._summary.copy()

    def chart(self) -> alt.LayerChart:
        """The summary over layers, with intervals, or a bar for each condition.

        Raises UserError for a table with no number that a chart could show, and for one with too many series.

        Example:
            >>> pair.patch(layers=[0, 1], limit=4).chart().to_dict()["title"]["text"]
            'Which layers carry the change?'
        """
        from mechdiff.reporting.charts import question_chart
        from mechdiff.reporting.charts.base import KL

        unit = KL if isinstance(self.request, EffectQuestion) else ""
        about = "bands, bars: 95 % CI" * self.request.averages
        figure = question_chart(self._summary, self.request.title, None, unit, about, self.request.columns)
        if figure is None:
            raise UserError("This table has no number that one chart could show.\nTry:  result.table, with fewer conditions")
        return figure

    @property
    def command(self) -> str:
        """The command line that gives the same numbers. A comment says what it needs first, or why there is none: for
        `pair.run`, and for models in memory.

        Example:
            >>> pair.patch(layers=1, limit=4).command.startswith("python -m mechdiff run patch")
            True
        """
        pair = described.get(self.request.pair)
        if pair is None or self.request.question not in QUESTIONS:
            return command(self.request)
        if pair.base.content:
            return "# There is no command line for these numbers: their models are in memory"
        file = f"{pair.name}.toml"
        return f'# first, in Python: pair.save("{file}")\n{command(replace(self.request, pair=file))}'

    def to_parquet(self, path: str | Path) -> None:
        """Write the table to a file that pandas reads too, with request, summary, notices and provenance in its metadata.

        path: the file. Of `pair.run` the request holds the interventions' names, and neither functions nor texts of prompts.
        Raises UserError if the file cannot be written.

        Example:
            >>> pair.patch(layers=1, limit=4).to_parquet(folder / "patch.parquet")
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        from mechdiff.study.request_json import plain

        request = self.request.named if isinstance(self.request, OwnRows) else self.request
        about = {"request": plain(request), "notices": self.notices, "provenance": self.provenance}
        buffer = io.BytesIO()
        self._summary.to_parquet(buffer, index=False)
        table = pa.Table.from_pandas(self.table, preserve_index=False)
        more = {METADATA: json.dumps(about).encode(), METADATA + b".summary": buffer.getvalue()}
        try:
            pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), **more}), path)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error}.") from None

    @classmethod
    def from_parquet(cls, path: str | Path) -> "Result":
        """A result that `to_parquet` wrote, with all that it shows. path: the file. Raises UserError for any other.

        Its request can be answered again; that of `pair.run` cannot, since it has only the interventions' names.

        Example:
            >>> pair.patch(layers=1, limit=4).to_parquet(folder / "patch.parquet")
            >>> md.Result.from_parquet(folder / "patch.parquet").request.layers
            (1,)
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        from mechdiff.study.request_json import request

        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{path} cannot be read: {error}.") from None
        metadata = table.schema.metadata or {}
        try:
            about: dict[str, Any] = json.loads(metadata[METADATA])
            result = cls(request(about["request"], kind_in_file), table.to_pandas(), about["notices"], about["provenance"])
            result.__dict__["_summary"] = pd.read_parquet(io.BytesIO(metadata[METADATA + b".summary"]))
        except (KeyError, TypeError, ValueError, pa.ArrowInvalid):
            raise UserError(f"{path} was not written by Result.to_parquet.\nTry:  pandas.read_parquet") from None
        return result

    def __repr__(self) -> str:
        return f"<Result of {self.request.question} on {self.request.pair}: {len(self.table)} rows>"

    def _repr_html_(self) -> str:
        """The question, its summary with intervals, and the notices, for a notebook."""
        lines = self._summary
        same = [name for name in lines.columns if lines[name].dtype.kind in "OUT" and lines[name].nunique() <= 1]
        body = lines.drop(columns=same).head(SHOWN).to_html(index=False, float_format=lambda value: f"{value:.4g}")
        more = f"<p>{len(lines) - SHOWN} more rows: <code>result.summary()</code></p>" if len(lines) > SHOWN else ""
        notices = "".join(f"<p>{html.escape(notice)}</p>" for notice in self.notices)
        return f"<p><b>{html.escape(self.request.title)}</b> {html.escape(self.request.pair)}</p>{body}{more}{notices}"
