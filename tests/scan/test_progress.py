import io
import json
import sys

from guard.scan import progress
from guard.scan.progress import Json, Lines
from guard.scan.scan import Now


def told(monkeypatch, teller, times, *nows):
    clock = iter(times)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with teller() as say:
        for now in nows:
            say(now)


def test_without_a_terminal_it_is_a_line_now_and_then(monkeypatch, capsys):
    told(
        monkeypatch, Lines, [0, 0, 0, 1, 1, 6, 6, 6, 7, 7, 11.5, 11.5, 11.5],
        Now(0, 0.0, 0, 0), Now(256, 0.0, 1, 0), Now(512, 0.25, 3, 0), Now(768, 0.3, 3, 0), Now(1024, 1.0, 9, 2),
    )  # fmt: skip
    assert capsys.readouterr().err == (
        "512 rows, 25%, 85 rows/s, 0:00:18 left, 3 flagged\n"
        "1,024 rows, 100%, 89 rows/s, 0:00:00 left, 9 flagged, 2 without a verdict\n"
    )


def test_what_an_earlier_run_did_is_not_counted_as_speed(monkeypatch, capsys):
    told(monkeypatch, Json, [0, 0, 10], Now(9000, 0.9, 0, 0), Now(9500, 0.95, 0, 0))
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["rows_per_second"], first["seconds_left"]) == (0.0, None)
    assert (second["rows"], second["rows_per_second"], second["seconds_left"]) == (9500, 50.0, 10.0)


def test_on_a_terminal_it_is_a_bar(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with Lines() as say:
        say(Now(512, 0.5, 7, 0))
    assert "512 rows, 50%" in shown.getvalue()
