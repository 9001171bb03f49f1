"""The output of a scan → rows in one shape, in a temporary Parquet file that everything else reads lazily.

The one rule: whatever the format and whichever columns are missing, the rows come out with the same columns; what was
not there is null, and `Rows.missing` names it, so that each part of the report can say so.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from guard.errors import InvalidFile
from guard.verdict import Decision

STOPPED = tuple(d.value for d in (Decision.FLAG, Decision.REVIEW, Decision.BLOCK))
JUDGED = (Decision.ALLOW.value, *STOPPED)
BATCH = 2**14  # rows that are in memory at once, where Python looks at each

_COLUMNS: dict[str, Any] = {
    "id": pl.String, "decision": pl.String, "score": pl.Float64, "categories": pl.List(pl.String),
    "error": pl.String, "policy": pl.String, "policy_hash": pl.String, "model": pl.String, "truncated": pl.Boolean,
    "unsupported_language": pl.Boolean, "category_scores": pl.String, "time": pl.String, "board": pl.String,
    "author": pl.String, "text": pl.String,
}  # fmt: skip
_FORM_READ, _FORM_KEPT = 6000, 2000  # characters of a text that are read for its normal form, and of that form
FORM_LEAST = 20  # characters: shorter forms ("thanks a lot") are alike without being copies


@dataclass(frozen=True)
class Rows:
    """The rows of a scan; `path` is a Parquet file with the columns of `_COLUMNS`, and:

    `number` (from 0), `code` (of an error), `judged`, `stopped`, `time` in UTC, and `form`: a hash of the text's
    normal form, null where that is too short to compare.
    """

    path: Path
    total: int
    missing: frozenset[str]  # columns that the file has not, or that are empty in every row
    bad_times: int  # rows with a time that nobody could read
    categories: tuple[str, ...]  # all that a row names or has a score for

    def lazy(self) -> pl.LazyFrame:
        return pl.scan_parquet(self.path, glob=False)

    def batches(self, *columns: str) -> Iterator[pl.DataFrame]:
        """The rows in order, `BATCH` at a time."""
        for start in range(0, self.total, BATCH):
            yield self.lazy().select(columns).slice(start, BATCH).collect()


def read(out: Path, folder: Path) -> Rows:
    """Read a scan's output; the temporary file goes into `folder`. Raises `InvalidFile`."""
    if not out.is_file():
        raise InvalidFile(f"{out}: there is no such file.", hint="Name the output of `guard scan`.")
    path = folder / "rows.parquet"
    try:
        raw = _scanned(out)
        there = set(raw.collect_schema().names())
        if "decision" not in there:
            raise InvalidFile(f"{out}: has no column 'decision'.", hint="Name the output of `guard scan`.")
        _shaped(raw, there).sink_parquet(path, row_group_size=BATCH)
        return _described(path)
    except (pl.exceptions.PolarsError, OSError) as cause:  # its message may quote a row
        raise InvalidFile(
            f"{out}: cannot be read as the output of a scan ({type(cause).__name__}).",
            hint="Is it whole, and does its name end in what it is?",
        ) from cause


def _scanned(out: Path) -> pl.LazyFrame:
    suffixes = [suffix.lower() for suffix in out.suffixes]
    if suffixes[-1:] in ([".gz"], [".zst"]):
        suffixes.pop()
    kind = suffixes[-1] if suffixes else ""
    if kind == ".parquet":
        return pl.scan_parquet(out, glob=False)
    if kind == ".csv":
        return pl.scan_csv(out, infer_schema=False, glob=False)
    if kind == ".jsonl":
        return pl.scan_ndjson(glob.escape(str(out)), schema=_COLUMNS)
    raise InvalidFile(f"{out}: not a known kind of output.", hint="Known: .jsonl, .csv, .parquet; .gz or .zst behind.")


def _shaped(raw: pl.LazyFrame, there: set[str]) -> pl.LazyFrame:
    types = raw.collect_schema()
    cells = [_cell(name, kind, types.get(name)) for name, kind in _COLUMNS.items()]
    decision = pl.col("decision")
    return (
        raw.select(cells)
        .with_columns(
            time=_utc(pl.col("time")), bad_time=pl.col("time").is_not_null(), code=_code(pl.col("error")),
            judged=decision.is_in(JUDGED).fill_null(False), stopped=decision.is_in(STOPPED).fill_null(False),
            form=_form_hash(pl.col("text")),
        )
        .with_columns(bad_time=pl.col("bad_time") & pl.col("time").is_null())
        .with_row_index("number")
    )  # fmt: skip


def _cell(name: str, kind: Any, found: Any) -> pl.Expr:
    if found is None:
        return pl.lit(None, dtype=kind).alias(name)
    cell = pl.col(name)
    if name == "categories":
        if found == pl.String:  # in CSV
            cell = pl.when(cell.str.len_bytes() > 0).then(cell.str.split(";"))
        return cell.cast(kind).fill_null([])
    if name == "category_scores" and found != pl.String:
        return cell.struct.json_encode().alias(name) if isinstance(found, pl.Struct) else pl.lit(None, dtype=kind)
    if kind == pl.Boolean:
        return (cell.str.to_lowercase() == "true" if found == pl.String else cell.cast(kind)).fill_null(False)
    if kind == pl.Float64:
        # what is no probability is no score, and nothing can be drawn of it
        cell = cell.cast(kind, strict=False)
        return pl.when(cell.is_between(0, 1)).then(cell)
    if isinstance(found, pl.Datetime):
        return cell.dt.to_string("iso:strict").alias(name)
    cell = cell.cast(kind)
    return pl.when(cell.str.len_bytes() > 0).then(cell)


def _utc(said: pl.Expr) -> pl.Expr:
    """ISO 8601, or seconds, milliseconds or microseconds since 1970; without an offset it is taken for UTC."""
    iso = said.str.strip_chars().str.replace(r"^(\d{4}-\d\d-\d\d) ", "${1}T").str.replace(r"\s*(Z|UTC)$", "+00:00")
    aware = iso.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%z", strict=False, time_unit="us")
    plain = [
        iso.str.to_datetime(form, strict=False, time_unit="us")
        for form in ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d")
    ]
    number = said.str.strip_chars().cast(pl.Float64, strict=False)
    seconds = (
        pl.when(number.abs() < 1e11).then(number).when(number.abs() < 1e14).then(number / 1e3)
        .when(number.abs() < 1e17).then(number / 1e6)
    )  # fmt: skip
    since = (seconds * 1e6).cast(pl.Int64, strict=False).cast(pl.Datetime("us"))
    found = pl.coalesce(aware.dt.convert_time_zone("UTC").dt.replace_time_zone(None), *plain, since)
    return pl.when(found.dt.year().is_between(1000, 9999)).then(found)  # before and after there is no forum


def _code(error: pl.Expr) -> pl.Expr:
    return error.str.extract(r"^([a-z_]{1,40}):", 1).fill_null(pl.when(error.is_not_null()).then(pl.lit("error")))


def normal_form(text: pl.Expr) -> pl.Expr:
    """What is left of a text when everything that spammers vary is evened out.

    Width, case, digits, punctuation and invisible characters make no difference.
    """
    return (
        text.str.head(_FORM_READ).str.normalize("NFKC").str.to_lowercase().str.replace_all(r"\p{Cf}", "")
        .str.replace_all(r"\p{Nd}", "0").str.replace_all(r"[^\p{L}\p{M}0]+", " ").str.strip_chars().str.head(_FORM_KEPT)
    )  # fmt: skip


def _form_hash(text: pl.Expr) -> pl.Expr:
    form = normal_form(text)
    return pl.when(form.str.len_chars() >= FORM_LEAST).then(form.hash(1))


def _described(path: Path) -> Rows:
    rows = pl.scan_parquet(path, glob=False)
    empty = [pl.col(name).is_null().all().alias(name) for name in _COLUMNS if name not in ("categories", "time")]
    facts = rows.select(
        *empty, total=pl.len(), bad=pl.col("bad_time").sum(), no_time=pl.col("time").is_null().all(),
        no_categories=(pl.col("categories").list.len() == 0).all(),
    ).collect(engine="streaming").row(0, named=True)  # fmt: skip
    missing = {name for name in _COLUMNS if facts.get(name)}
    missing |= {name for name in ("time", "categories") if facts[f"no_{name}"]}
    named = rows.select(pl.col("categories").explode().drop_nulls().unique()).collect(engine="streaming")
    scores = rows.select(pl.col("category_scores").drop_nulls().head(1)).collect().to_series().to_list()
    categories = {*named.to_series().to_list(), *_keys(scores[0] if scores else "{}")}
    return Rows(path, facts["total"], frozenset(missing), facts["bad"] or 0, tuple(sorted(categories - {""})))


def _keys(scores: str) -> list[str]:
    try:
        return list(json.loads(scores))
    except (ValueError, TypeError):
        return []


def as_day(when: datetime | None) -> str:
    """A time for people, or a dash."""
    return f"{when:%Y-%m-%d %H:%M}" if when else "–"
