"""What was found, in the words, tables and charts of the report.

A part whose columns the scan has not says so in one sentence; nothing is left out silently.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from guard.measure.intervals import Estimate
from guard.report import plots
from guard.report.buckets import Buckets
from guard.report.changes import Change
from guard.report.clusters import ALIKE, FEWEST, Clusters
from guard.report.found import BINS, NAMES, Found, Over, Places, Worst
from guard.report.parts import Cell, Foreign, Hidden, Numbers, Paragraph, Part, Picture, Section, Table, joined
from guard.report.rates import FEWEST as FEWEST_JUDGED
from guard.report.rates import share
from guard.report.sample import Reviewed
from guard.report.source import FORM_LEAST, Rows, as_day
from guard.report.watch import Watched

_SERIES = len(plots.SERIES) - 1  # categories with a colour of their own; the last colour is for all others


def lead(name: str, found: Found) -> list[Cell]:
    """One line: which file, judged by what, and when its rows were written."""
    words: list[Cell] = [Foreign(name)]
    if found.policies:
        words += ["under policy", joined(found.policies[:3])]
    if found.models:
        words += ["with model", joined(found.models[:3])]
    if found.over:
        starts = found.over.buckets
        words.append(f"· times {starts.label(starts.starts[0])} to {starts.label(starts.starts[-1])} UTC")
    return words


def content(
    rows: Rows, found: Found, clusters: Clusters, watched: Sequence[Watched], reviewed: Reviewed | None
) -> list[Section]:
    """The sections of the report."""
    return [
        Section("In short", "short", tuple(_short(rows, found))),
        *([Section("Review", "review", tuple(_reviewed(reviewed)))] if reviewed else []),
        Section("Categories", "categories", tuple(_categories(rows, found))),
        Section("Over time", "time", tuple(_over(rows, found.over))),
        Section("Boards", "boards", tuple(_places(found.boards, "board", rows))),
        Section("Authors", "authors", tuple(_places(found.authors, "author", rows))),
        *(Section(Foreign(f"Watched: {one.term}"), f"watch-{i}", tuple(_watched(rows, one, i)))
          for i, one in enumerate(watched)),
        Section("Near-duplicates", "clusters", tuple(_clusters(rows, clusters))),
        Section("Scores", "scores", tuple(_scores(rows, found))),
        Section("Highest scores", "worst", tuple(_worst(found))),
        Section("Errors and limits", "errors", tuple(_errors(rows, found))),
    ]  # fmt: skip


def _short(rows: Rows, found: Found) -> Iterable[Part]:
    stopped = share(found.stopped, found.judged)
    yield Numbers((
        ("Rows", found.rows, ""),
        ("Judged", found.judged, ""),
        ("Stopped", found.stopped, f"{_short_percent(stopped)} of the judged"),
        ("Without a verdict", found.rows - found.judged, "errors: not judged, not harmless"),
        ("Language not supported", found.unsupported_language, "judged, but less surely"),
        ("Not read to the end", found.truncated, "too long for the model"),
    ))  # fmt: skip
    if not found.rows:
        yield Paragraph("The scan has no rows.")
        return
    yield Paragraph("Stopped means: flagged, kept for review, or blocked. Allowed rows passed.")
    yield Table(
        "Decisions", ("decision", "rows", "share of all rows"),
        tuple((Foreign(name), n, share(n, found.rows)) for name, n in found.decisions.items()),
    )  # fmt: skip
    yield from _absent(rows, ("score", "truncated", "unsupported_language", "policy", "model"), "Figures on them")


def _short_percent(found: Estimate) -> str:
    return "–" if found.value is None else f"{100 * found.value:.{2 if found.value < 0.01 else 1}f} %"


def _absent(rows: Rows, columns: Iterable[str], what: str) -> Iterable[Part]:
    if absent := sorted(rows.missing & set(columns)):
        names = ", ".join(absent)
        yield Paragraph(f"The scan's output says nothing in these columns: {names}. {what} are missing here.")


def _categories(rows: Rows, found: Found) -> Iterable[Part]:
    if not found.categories:
        yield Paragraph("No stopped row names a category.")
        return
    yield Paragraph("A row may name several. Shares are of the rows that were judged.")
    if len(found.categories) == NAMES:
        yield Paragraph(f"There may be more: these are the {NAMES} commonest.")
    yield Table(
        "Stopped rows by category", ("category", "rows", "share"),
        tuple((Foreign(name), n, share(n, found.judged)) for name, n in found.categories.items()),
    )  # fmt: skip
    if found.over:
        over = found.over.counts.categories
        shown, others = list(over)[:_SERIES], list(over)[_SERIES:]
        series = {colour: over[name] for colour, name in zip(plots.SERIES, shown, strict=False)}
        legend: list[tuple[str, str | Foreign]] = list(zip(plots.SERIES, map(Foreign, shown), strict=False))
        if others:
            series[plots.SERIES[-1]] = tuple(map(sum, zip(*(over[name] for name in others), strict=True)))
            legend.append((plots.SERIES[-1], f"{len(others)} others"))
        buckets = found.over.buckets
        says = f"Categories of stopped rows, by {buckets.name}"
        yield Picture(plots.categories_over_time(buckets, series), says, tuple(legend))
        yield Table(
            says, ("from", *(_plain(words) for _, words in legend)),
            tuple(
                (buckets.label(start), *(series[colour][i] for colour, _ in legend))
                for i, start in enumerate(buckets.starts)
            ),
            folded=True,
        )  # fmt: skip


def _plain(words: str | Foreign) -> str:
    """A heading of a table: categories are words like any other there, once they are cut to what an id may hold."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_ ") else "?" for c in words[:64])


def _over(rows: Rows, over: Over | None) -> Iterable[Part]:
    if over is None:
        yield Paragraph(
            "No row has a time. `guard scan` writes the column `time` where the input has one and is told which it is."
        )
    else:
        buckets, counts = over.buckets, over.counts
        allowed = [judged - stopped for judged, stopped in zip(counts.judged, counts.stopped, strict=True)]
        yield Picture(
            plots.rows_over_time(buckets, allowed, counts.stopped), f"Judged rows, by {buckets.name}",
            (("calm", "allowed"), ("stop", "stopped")),
        )  # fmt: skip
        yield Picture(
            plots.share_over_time("share", buckets, {"stop": (counts.stopped, counts.judged)}),
            f"Share of judged rows that was stopped, by {buckets.name}, with its 95 % interval",
        )
        yield Table(
            f"Rows by {buckets.name}", ("from (UTC)", "rows", "judged", "stopped", "share stopped"),
            tuple(
                (buckets.label(start), counts.rows[i], counts.judged[i], counts.stopped[i],
                 share(counts.stopped[i], counts.judged[i]))
                for i, start in enumerate(buckets.starts)
            ),
            folded=True,
        )  # fmt: skip
        left_out = [
            f"{n:,} rows {why}"
            for n, why in (
                (over.untimed, "have no time that could be read"),
                (over.outside, "have a time far from all others"),
            )
            if n
        ]
        if left_out:
            yield Paragraph(f"Not in the charts: {' and '.join(left_out)}.")
    if rows.bad_times:
        yield Paragraph(
            f"{rows.bad_times:,} rows have a time that is neither ISO 8601 nor a number of seconds since 1970, or that "
            "lies before the year 1000."
        )


def _places(places: Places, name: str, rows: Rows) -> Iterable[Part]:
    if name in rows.missing:
        yield Paragraph(f"No row names its {name}: the scan was not told which column holds it.")
        return
    yield Paragraph(
        f"{places.different:,} {name}s, {places.with_stopped:,} of them with stopped rows. "
        f"A share is given where at least {FEWEST_JUDGED} rows were judged."
    )
    if places.unknown:
        yield Paragraph(f"{places.unknown:,} rows have no {name}.")
    if places.top:
        yield Table(
            f"{name.capitalize()}s with the most stopped rows",
            (name, "judged", "stopped", "share stopped", "mostly"),
            tuple(
                (Foreign(one.name), one.judged, one.stopped, one.share, joined(one.categories)) for one in places.top
            ),
        )


def _scores(rows: Rows, found: Found) -> Iterable[Part]:
    if "score" in rows.missing:
        yield Paragraph("No row has a score.")
        return
    says = "Scores of judged rows, on a logarithmic scale"
    yield Picture(plots.histogram(found.histogram), says, (("calm", "allowed"), ("stop", "stopped")))
    yield Table(
        "Rows by score", ("score from", "allowed", "stopped"),
        tuple(
            (f"{i / BINS:.2f}", found.histogram["allow"][i], found.histogram["stopped"][i]) for i in range(BINS)
        ),
        folded=True,
    )  # fmt: skip


def _worst(found: Found) -> Iterable[Part]:
    if not found.worst:
        yield Paragraph("Nothing was stopped.")
        return
    yield Paragraph(
        f"The {len(found.worst)} stopped rows with the highest scores. Each text is behind a click: it may be hard to "
        "read."
    )
    yield from map(_hidden, found.worst)


def _hidden(row: Worst) -> Hidden:
    score = "no score" if row.score is None else f"{row.score:.3f}"
    facts = (
        ("id", Foreign(row.id)), ("decision", row.decision), ("score", score), ("categories", joined(row.categories)),
        ("author", Foreign(row.author or "")), ("board", Foreign(row.board or "")), ("time", as_day(row.time)),
    )  # fmt: skip
    text = "(the scan's output has no text)" if row.text is None else row.text
    return Hidden((score, row.decision, joined(row.categories), Foreign(row.id)), facts, Foreign(text))


def _errors(rows: Rows, found: Found) -> Iterable[Part]:
    if found.errors:
        yield Table(
            "Rows without a verdict, by the code of their error", ("code", "rows", "share of all rows"),
            tuple((Foreign(code), n, share(n, found.rows)) for code, n in found.errors.items()),
        )  # fmt: skip
        yield Paragraph("They stand with their texts in the file of errors beside the scan's output.")
    elif found.rows == found.judged:
        yield Paragraph("Every row has a verdict.")
    yield Table(
        "Read with a reservation", ("what", "rows", "share of all rows"),
        (
            ("in a language that the model was not made for", found.unsupported_language,
             share(found.unsupported_language, found.rows)),
            ("not read to the end", found.truncated, share(found.truncated, found.rows)),
        ),
    )  # fmt: skip
    yield from _absent(rows, ("time", "board", "author", "text"), "Charts and lists that need them")


def _clusters(rows: Rows, clusters: Clusters) -> Iterable[Part]:
    if "text" in rows.missing:
        yield Paragraph("The scan's output has no texts (`--no-text`), so none could be compared.")
        return
    yield Paragraph(
        f"{clusters.clusters:,} groups of at least {FEWEST} nearly equal texts, {clusters.rows:,} rows in all, "
        f"whatever was decided about them. {clusters.compared:,} texts were compared: those of at least {FORM_LEAST} "
        "letters; case, digits, punctuation and width make no difference. Two are nearly equal where they share at "
        f"least {ALIKE:.0%} of their sequences of four characters; a group holds what is linked, also through others."
    )
    if not clusters.largest:
        return
    yield Table(
        "The largest groups",
        ("group", "rows", "wordings", "stopped", "share stopped", "authors", "boards", "from", "to"),
        tuple(
            (f"{i}", one.rows, one.forms, one.stopped, share(one.stopped, one.judged), _count(one.authors),
             _count(one.boards), as_day(one.first), as_day(one.last))
            for i, one in enumerate(clusters.largest, 1)
        ),
    )  # fmt: skip
    for i, one in enumerate(clusters.largest, 1):
        yield Hidden((f"group {i}", f"{one.rows:,} rows", "an example"), (), Foreign(one.example))


def _count(number: int | None) -> Cell:
    return "–" if number is None else number


def _watched(rows: Rows, one: Watched, number: int) -> Iterable[Part]:
    if "text" in rows.missing:
        yield Paragraph("The scan's output has no texts (`--no-text`), so no mention could be found.")
        return
    if not one.rows:
        yield Paragraph("No row mentions it.")
        return
    yield Table(
        "Mentions", ("", "rows", "share"),
        (
            ("rows that mention it, of all", one.rows, one.mentioned),
            ("stopped, of those judged that mention it", _hits(one.harmful), one.harmful),
            ("stopped, of all other judged rows", _hits(one.others), one.others),
        ),
    )  # fmt: skip
    if one.categories:
        yield Table(
            "Categories", ("category", "share where it is mentioned", "share in all other rows"),
            tuple((Foreign(name), there, elsewhere) for name, there, elsewhere in one.categories),
        )  # fmt: skip
    if one.over:
        over = one.over
        buckets, mine, others = over.buckets, over.mine, over.others
        says = f"Share stopped, by {buckets.name}, with 95 % intervals"
        marks = (("mark", "a change begins"),) if over.harm_changes else ()
        yield Picture(
            plots.share_over_time(
                f"watch-{number}", buckets,
                {"calm": (others.stopped, others.judged), "stop": (mine.stopped, mine.judged)},
                over.harm_changes,
            ),
            says, (("stop", "rows that mention it"), ("calm", "all other rows"), *marks),
        )  # fmt: skip
        marks = (("mark", "a change begins"),) if over.mention_changes else ()
        yield Picture(
            plots.mentions_over_time(f"mentions-{number}", buckets, mine.rows, over.mention_changes),
            f"Rows that mention it, by {buckets.name}", marks,
        )  # fmt: skip
        yield from _changes(buckets, over.harm_changes, "share stopped of the rows that mention it")
        yield from _changes(buckets, over.mention_changes, "share of all rows that mention it")
        yield Table(
            f"By {buckets.name}",
            ("from (UTC)", "mentions", "stopped", "share stopped", "share stopped of all other rows",
             *map(_plain, mine.categories)),
            tuple(
                (buckets.label(start), mine.rows[i], mine.stopped[i], share(mine.stopped[i], mine.judged[i]),
                 share(others.stopped[i], others.judged[i]), *(n[i] for n in mine.categories.values()))
                for i, start in enumerate(buckets.starts)
            ),
            folded=True,
        )  # fmt: skip
    else:
        yield Paragraph("No row has a time, so nothing can be said about changes.")
    if one.examples:
        yield Paragraph("Stopped rows that mention it, those with the highest scores:")
        yield from map(_hidden, one.examples)


def _hits(found: Estimate) -> int:
    return round((found.value or 0) * found.n)


def _changes(buckets: Buckets, changed: Sequence[Change], what: str) -> Iterable[Part]:
    if not changed:
        yield Paragraph(f"No change was found in the {what}.")
        return
    yield Table(
        f"Changes: {what}", ("from (UTC)", "before", "after"),
        tuple((buckets.label(buckets.starts[one.at]), one.before, one.after) for one in changed),
    )  # fmt: skip


def _reviewed(reviewed: Reviewed) -> Iterable[Part]:
    yield Paragraph(
        "What people said about a sample, drawn at random within each decision, carried over to all rows. The interval "
        "is Wilson's in each decision, and the decisions are put together by the method of variance estimates recovery "
        "(Zou and Donner 2008)."
    )
    yield Table(
        "Estimates", ("of all rows of the scan", "labelled", "estimate"),
        (
            ("harmful, of those stopped (precision)", reviewed.precision.n, reviewed.precision),
            *((f"harmful, of those with the decision {name}", found.n, found)
              for name, found in reviewed.by_decision.items()),
            ("harmful, of those allowed (missed)", reviewed.missed.n, reviewed.missed),
        ),
    )  # fmt: skip
    yield Table(
        "The sample", ("decision", "rows", "drawn", "labelled", "labelled harmful"),
        tuple((one.name, one.rows, one.drawn, one.labelled, one.harmful) for one in reviewed.strata),
    )  # fmt: skip
    if reviewed.unlabelled:
        yield Paragraph(
            f"{reviewed.unlabelled:,} rows of the sample have no label: the estimates take those to be like the others."
        )
