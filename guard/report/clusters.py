"""Groups of nearly equal texts, whatever was decided about them.

Text → normal form (`source.normal_form`) → exact groups → the form's set of shingles (4 characters each, hashed) →
those with a Jaccard similarity of at least 0.7 are linked, and what is linked, also through others, is one cluster.

Who is compared with whom is found by locality-sensitive hashing, so that a million forms are no million squared:

- a signature of 80 values per form: the shingles' hashes are cut into 80 ranges, and each gives its lowest (one
  permutation hashing, Li, Owen and Zhang 2012); an empty range borrows from another, the same for all forms (optimal
  densification, Shrivastava 2017);
- 16 bands of 5 values: forms with an equal band are candidates, with the chance 1 - (1 - J^5)^16, which is 0.95 at
  J = 0.7 and 0.998 at 0.8;
- candidates are checked against their true similarity. In a band, each is compared with the first and the next of its
  kind only, which is linear, and enough: 16 bands, and links are handed on.

The shingles lie in a file that is mapped into memory; what is held per form is 16 numbers of 4 bytes and a few more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from guard.report.source import Rows, normal_form

SHINGLE = 4  # characters
ALIKE = 0.7
FEWEST = 3  # rows of a cluster that is shown
SHOWN = 20
_BANDS, _DEEP = 16, 5
_RANGES = _BANDS * _DEEP
_FORMS_AT_ONCE = 10_000
_SHINGLES_AT_ONCE = 4_000_000  # of the pairs that are compared at once

U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Cluster:
    """Rows whose texts are nearly equal."""

    rows: int
    forms: int  # different normal forms
    judged: int
    stopped: int
    authors: int | None  # different ones; None where no row has an author
    boards: int | None
    first: datetime | None
    last: datetime | None
    example: str  # of its most frequent form


@dataclass(frozen=True)
class Clusters:
    """What was compared and found; `largest` has at most `SHOWN`, the largest first."""

    compared: int  # rows whose text was long enough
    clusters: int
    rows: int  # in clusters
    largest: tuple[Cluster, ...]


@dataclass(frozen=True)
class Shingled:
    """The shingles of n texts: those of text i are `hashes[offsets[i] : offsets[i + 1]]`, sorted, each once."""

    hashes: U32
    offsets: Ints

    @property
    def sizes(self) -> Ints:
        return np.diff(self.offsets)


def clusters(rows: Rows, folder: Path) -> Clusters:
    """Find them. The temporary file of shingles goes into `folder`."""
    forms = (
        rows.lazy().filter(pl.col("form").is_not_null()).group_by("form")
        .agg(rows=pl.len(), first=pl.col("number").min()).sort("first").collect(engine="streaming")
    )  # fmt: skip
    if forms.is_empty():
        return Clusters(0, 0, 0, ())
    shingled, bands = _read(rows, forms["first"], folder / "shingles.u32")
    forms = forms.with_columns(cluster=pl.Series(linked(shingled, bands)))
    sizes = (
        forms.group_by("cluster").agg(forms=pl.len(), rows=pl.col("rows").sum(), first=pl.col("first").min())
        .filter(pl.col("rows") >= FEWEST).sort("rows", "first", descending=[True, False])
    )  # fmt: skip
    return Clusters(
        compared=int(forms["rows"].sum()), clusters=sizes.height, rows=int(sizes["rows"].sum()),
        largest=_described(rows, forms, sizes.head(SHOWN)),
    )  # fmt: skip


def _read(rows: Rows, firsts: pl.Series, path: Path) -> tuple[Shingled, U32]:
    """Shingles and bands [forms, 16] of the texts in the rows `firsts`, which are in order."""
    bands = np.empty((len(firsts), _BANDS), np.uint32)
    sizes: list[Ints] = []
    done = 0
    with path.open("wb") as file:
        for batch in rows.batches("number", "text"):
            texts = (
                batch.lazy().filter(pl.col("number").is_in(firsts.implode()))
                .select(normal_form(pl.col("text"))).collect().to_series()
            )  # fmt: skip
            for start in range(0, len(texts), _FORMS_AT_ONCE):
                part = shingles(texts[start : start + _FORMS_AT_ONCE].to_list())
                part.hashes.tofile(file)
                bands[done : done + len(part.sizes)] = banded(signatures(part))
                sizes.append(part.sizes)
                done += len(part.sizes)
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(sizes))])
    return Shingled(np.memmap(path, np.uint32, "r"), offsets), bands


def shingles(texts: Sequence[str]) -> Shingled:
    """The sets of the texts' shingles. A text shorter than a shingle is one."""
    padded = [text.ljust(SHINGLE, "\0") for text in texts]
    lengths = np.array([len(text) for text in padded], np.int64)
    letters = np.frombuffer("".join(padded).encode("utf-32-le"), np.uint32).astype(np.uint64)
    mixed = np.zeros(max(0, len(letters) - SHINGLE + 1), np.uint64)
    for place in range(SHINGLE):
        mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + letters[place : place + len(mixed)]
    owner = np.repeat(np.arange(len(texts)), lengths)[: len(mixed)]
    within = np.concatenate([[0], np.cumsum(lengths)])[1:][owner] - np.arange(len(mixed)) >= SHINGLE
    keys = (owner[within].astype(np.uint64) << np.uint64(32)) | (_scattered(mixed[within]) >> np.uint64(32))
    keys.sort()
    keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])]  # np.unique's hashing is ten times slower here
    counts = np.bincount((keys >> np.uint64(32)).astype(np.int64), minlength=len(texts))
    return Shingled(keys.astype(np.uint32), np.concatenate([[0], np.cumsum(counts)]))


def _scattered(values: U64) -> U64:
    """Values → hashes that tell nothing of them (the finaliser of MurmurHash3)."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        values = (values ^ (values >> np.uint64(33))) * np.uint64(factor)
    return values ^ (values >> np.uint64(33))


_BORROWED = np.random.default_rng(20231010).permuted(np.tile(np.arange(_RANGES), (_RANGES, 1)), axis=1)


def signatures(of: Shingled) -> U32:
    """[n, 80]: two texts have an equal value in about the share of places that is their Jaccard similarity."""
    n = len(of.sizes)
    owner = np.repeat(np.arange(n), of.sizes)
    place = owner * _RANGES + ((of.hashes.astype(np.uint64) * np.uint64(_RANGES)) >> np.uint64(32)).astype(np.int64)
    first = np.ones(len(place), bool)
    first[1:] = place[1:] != place[:-1]  # hashes are sorted, so the first of a range is its lowest
    found = np.zeros(n * _RANGES, np.uint32)
    full = np.zeros(n * _RANGES, bool)
    found[place[first]] = of.hashes[first]
    full[place[first]] = True
    empty = np.flatnonzero(~full)
    for attempt in range(_RANGES):
        lender = empty - empty % _RANGES + _BORROWED[empty % _RANGES, attempt]
        lends = full[lender]
        found[empty[lends]] = found[lender[lends]]
        empty = empty[~lends]
        if not len(empty):
            break
    return found.reshape(n, _RANGES)


def banded(signature: U32) -> U32:
    """[n, 16]: a hash of each band of 5 values."""
    parts = signature.astype(np.uint64).reshape(len(signature), _BANDS, _DEEP)
    mixed = np.zeros(parts.shape[:2], np.uint64)
    for place in range(_DEEP):
        mixed = _scattered(mixed * np.uint64(0x9E3779B97F4A7C15) + parts[:, :, place])
    return (mixed >> np.uint64(32)).astype(np.uint32)


def linked(shingled: Shingled, bands: U32) -> NDArray[np.int32]:
    """A number per text [n], the same for those of one cluster."""
    n = len(bands)
    labels = np.arange(n, dtype=np.int32)
    for band in bands.T:
        order = np.argsort(band, kind="stable")
        begins = np.ones(n, bool)
        begins[1:] = band[order][1:] != band[order][:-1]
        first = order[np.flatnonzero(begins)[np.cumsum(begins) - 1]]
        follows = np.flatnonzero(~begins)
        if not len(follows):
            continue
        # texts of one cluster need no comparing, and a chain within a band none either, once its first has taken it in
        for other in (first[follows], order[follows - 1]):
            pairs = np.stack([other, order[follows]], axis=1)
            pairs = pairs[labels[pairs[:, 0]] != labels[pairs[:, 1]]]
            alike = pairs[similarities(shingled, pairs) >= ALIKE]
            ends = labels[alike].T
            graph = coo_array((np.ones(len(alike), bool), (ends[0], ends[1])), shape=(n, n))
            labels = connected_components(graph, directed=False)[1][labels]
    return labels


def similarities(shingled: Shingled, pairs: Ints) -> NDArray[np.float64]:
    """The Jaccard similarity of each pair of texts [p, 2]; 0 where the sizes alone say that they are not alike."""
    sizes = shingled.sizes[pairs]
    found = np.zeros(len(pairs))
    worth = np.flatnonzero(sizes.min(axis=1, initial=2**31) >= ALIKE * sizes.max(axis=1, initial=0))
    cost = np.cumsum(sizes[worth].sum(axis=1))
    at = 0
    while at < len(worth):
        end = max(at + 1, int(np.searchsorted(cost, (cost[at - 1] if at else 0) + _SHINGLES_AT_ONCE)))
        some = worth[at:end]
        both = np.sort(np.concatenate([_tagged(shingled, pairs[some, side]) for side in (0, 1)]))
        shared = (both[1:][both[1:] == both[:-1]] >> np.uint64(32)).astype(np.int64)
        common = np.bincount(shared, minlength=len(some))
        found[some] = common / (sizes[some].sum(axis=1) - common)
        at = end
    return found


def _tagged(shingled: Shingled, texts: Ints) -> U64:
    """The shingles of the texts, each with the place of its text in the upper half."""
    sizes = shingled.sizes[texts]
    tag = np.repeat(np.arange(len(texts)), sizes)
    place = np.arange(len(tag)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + shingled.offsets[texts][tag]
    tagged: U64 = (tag.astype(np.uint64) << np.uint64(32)) | shingled.hashes[place]
    return tagged


def _described(rows: Rows, forms: pl.DataFrame, chosen: pl.DataFrame) -> tuple[Cluster, ...]:
    members = forms.join(chosen.select("cluster"), on="cluster", how="semi")
    within = rows.lazy().join(members.lazy().select("form", "cluster"), on="form", how="inner")
    found = {
        row["cluster"]: row
        for row in within.group_by("cluster")
        .agg(
            pl.col("judged").sum(), pl.col("stopped").sum(), authors=pl.col("author").drop_nulls().n_unique(),
            boards=pl.col("board").drop_nulls().n_unique(), first=pl.col("time").min(), last=pl.col("time").max(),
        )
        .collect(engine="streaming").iter_rows(named=True)
    }  # fmt: skip
    shown = members.sort("rows", "first", descending=[True, False]).unique("cluster", keep="first")
    texts = rows.lazy().filter(pl.col("number").is_in(shown["first"].implode())).select("number", "text").collect()
    text_of = dict(shown.join(texts, left_on="first", right_on="number").select("cluster", "text").iter_rows())
    return tuple(
        Cluster(
            rows=row["rows"], forms=row["forms"], judged=found[row["cluster"]]["judged"],
            stopped=found[row["cluster"]]["stopped"], authors=found[row["cluster"]]["authors"] or None,
            boards=found[row["cluster"]]["boards"] or None, first=found[row["cluster"]]["first"],
            last=found[row["cluster"]]["last"], example=text_of[row["cluster"]],
        )
        for row in chosen.iter_rows(named=True)
    )  # fmt: skip
