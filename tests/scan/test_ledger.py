import json

import pytest

from guard.errors import InvalidFile
from guard.scan.blocks import Block, Mark
from guard.scan.ledger import Entry, Ledger, commit
from guard.scan.store import open_store

KEY = {"policy": "a" * 64, "columns": {"text": "text", "id": None}, "blocks": [1000, 20]}


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "out.ledger"))


def block(number, last=False):
    return Block(number, [], {"rows": 2 * (number + 1)}, f"digest-{number}", 0.5, last)


def records(*decisions):
    return [{"id": "x", "decision": one, "categories": ["hate"] if one == "flag" else []} for one in decisions]


def filled(store):
    ledger = Ledger(store, KEY)
    ledger.add(commit(store, block(0), records("allow", "flag"), []))
    ledger.add(commit(store, block(1), records("error", "flag"), [{"row": 3, "text": "é\u2028\n"}]))
    ledger.add(commit(store, block(2, last=True), records("allow"), []))
    return ledger


def test_what_is_committed_is_found_again(store):
    before = filled(store)
    ledger = Ledger(store, KEY)
    assert ledger.entries == before.entries
    assert [(e.rows, e.errors, e.last, e.mark) for e in ledger.entries] == [
        (2, 0, False, Mark({"rows": 2}, "digest-0")),
        (2, 1, False, Mark({"rows": 4}, "digest-1")),
        (1, 0, True, Mark({"rows": 6}, "digest-2")),
    ]
    assert ledger.tally("decisions") == {"allow": 2, "flag": 2, "error": 1}
    assert ledger.tally("categories") == {"hate": 2}
    assert ledger.records(0) == records("allow", "flag")
    there, errors = ledger.lines(1)
    assert [json.loads(line) for line in there] == records("error", "flag")
    assert [json.loads(line) for line in errors] == [{"row": 3, "text": "é\u2028\n"}]


def test_committing_a_block_twice_is_committing_it_once(store):
    ledger = filled(store)
    ledger.add(commit(store, block(1), records("error", "flag"), [{"row": 3, "text": "é\u2028\n"}]))
    assert Ledger(store, KEY).entries == ledger.entries
    assert len(ledger.entries) == 3


def test_blocks_behind_a_gap_are_not_counted(store):
    filled(store)
    store.remove(["000001.jsonl"])
    assert [entry.block for entry in Ledger(store, KEY).entries] == [0]


def test_the_last_block_can_be_forgotten_and_with_it_that_the_scan_was_finished(store):
    ledger = filled(store)
    ledger.finish({"bytes": 7})
    assert Ledger(store, KEY).finished() == {"bytes": 7}
    assert ledger.drop_last().block == 2
    again = Ledger(store, KEY)
    assert (len(again.entries), again.finished()) == (2, None)
    assert again.sum == ledger.sum


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"policy": "b" * 64}, "policy (was aaaaaaaaaaaa, is bbbbbbbbbbbb)"),
        ({"columns": {"text": "body", "id": None}}, 'columns (was {"text": "text", "id": null}, is {"text": "body"'),
        ({"new": 1}, "new (was null, is 1)"),
    ],
)
def test_a_change_of_what_the_verdicts_depend_on_is_refused_by_name(store, changed, named):
    filled(store)
    with pytest.raises(InvalidFile) as caught:
        Ledger(store, {**KEY, **changed})
    assert named in caught.value.message
    assert "--restart" in caught.value.hint
    assert len(Ledger(store, KEY).entries) == 3
    restarted = Ledger(store, {**KEY, **changed}, restart=True)
    assert (restarted.entries, restarted.finished()) == ([], None)
    assert store.names() == ["scan.json"]


def test_a_folder_that_is_no_ledger_is_left_alone(store):
    store.put("precious.txt", b"!")
    for restart in (False, True):
        with pytest.raises(InvalidFile, match="not a scan's ledger"):
            Ledger(store, KEY, restart)
    assert store.names() == ["precious.txt"]


@pytest.mark.parametrize(
    "spoil", [lambda c: c[:-3], lambda c: c.replace(b'n": "flag"', b'n": "allow"'), lambda c: b"{}\n"]
)
def test_a_block_that_was_changed_is_noticed(store, spoil):
    filled(store)
    store.put("000001.jsonl", spoil(store.get("000001.jsonl")))
    with pytest.raises(InvalidFile, match="changed or removed"):
        Ledger(store, KEY).lines(1)


def test_an_entry_is_read_without_its_block_however_many_rows_that_has(store):
    entry = commit(store, block(0), records(*["flag"] * 1000), [])
    assert isinstance(entry, Entry)
    assert len(store.get("000000.jsonl", 2**16).partition(b"\n")[0]) < 1000
