"""On a real Ray cluster of two nodes on this machine; the oracle is the scan in one process."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from guard.cli import run
from guard.engine.fake import FakeEngine
from guard.errors import (
    EngineError,
    InvalidFile,
    InvalidPolicy,
    InvalidRequest,
    InvalidSettings,
    ModelUnavailable,
    NotReady,
)
from guard.moderator import Moderator
from guard.policy import FittedCalibration
from guard.scan import cluster
from guard.scan.blocks import ROWS, blocks
from guard.scan.cluster import scan_on
from guard.scan.columns import Columns
from guard.scan.job import Job
from guard.scan.scan import opened, scan
from guard.settings import load_settings

ROOT = Path(__file__).resolve().parents[2]
FAKE = load_settings(model="fake")
COLUMNS = Columns(id="id", parent_id="parent")
BLOCKS = 8

# Ray warns itself of its own defaults.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")


@pytest.fixture(scope="module")
def address():
    """Of a cluster of two nodes with two cores each."""
    from ray.cluster_utils import Cluster

    kept = {name: os.environ.get(name) for name in ("RAY_USAGE_STATS_ENABLED", "RAY_raylet_start_wait_time_s")}
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_raylet_start_wait_time_s="240")
    node = {"num_cpus": 2, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    others = set(descendants())  # of other tests: a database's server, say
    nodes = Cluster(initialize_head=True, head_node_args=node)
    nodes.add_node(**node)
    before = [pid for pid in descendants() if pid not in others]
    try:
        yield nodes.address
    finally:
        nodes.shutdown()
        for name, value in kept.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    deadline = time.monotonic() + 60
    while alive := [pid for pid in before if Path(f"/proc/{pid}/stat").exists() and not is_zombie(pid)]:
        assert time.monotonic() < deadline, f"Ray left {alive} behind"
        time.sleep(0.2)


def processes():
    """(number, parent's number, command line) of every process."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            yield int(folder.name), parent, (folder / "cmdline").read_bytes().decode(errors="replace")
        except (OSError, ValueError):
            continue  # it has ended


def is_zombie(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def descendants():
    """Numbers and command lines of the processes that were started from here, at any distance."""
    found = {os.getpid(): ""}
    there = list(processes())
    while more := {pid: command for pid, parent, command in there if parent in found and pid not in found}:
        found |= more
    del found[os.getpid()]
    return found


def source_of(path, rows):
    """A thread: every tenth comment replies to one that is more than a block before it; one is empty."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "parent", "text"])
        for i in range(rows):
            parent = f"id-{i - ROWS - 100}" if i % 10 == 0 and i > ROWS + 100 else ""
            writer.writerow([f"id-{i}", parent, "" if i == rows // 2 else f"text number {i}"])
    return path


def job_of(source, out, columns=COLUMNS, policy="forum-comments", **more):
    moderator = fake()
    chosen = moderator.policies.get(policy)
    kind = chosen.default_kind
    return Job((str(source),), str(out), chosen.narrowed(None, kind), kind, columns, **more)


def fake():
    return Moderator.load(FAKE)


def committed(out):
    return {path.name: path.read_bytes() for path in Path(f"{out}.ledger").glob("[0-9]*.jsonl")}


def alike(out, other):
    """Outputs, errors and all blocks, byte for byte."""
    assert committed(out) == committed(other)
    for suffix in ("", ".errors.jsonl"):
        assert Path(f"{out}{suffix}").read_bytes() == Path(f"{other}{suffix}").read_bytes()


# ---- killed


def test_a_scan_begun_here_whose_driver_and_a_worker_are_killed_gives_what_an_undisturbed_run_gives(address, tmp_path):
    source = source_of(tmp_path / "in.csv", BLOCKS * ROWS - 300)
    undisturbed, out = tmp_path / "undisturbed.jsonl", tmp_path / "out.jsonl"
    scan(fake(), job_of(source, undisturbed))
    job = job_of(source, out)

    def interrupt(now):
        if now.rows >= 2 * ROWS:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan(fake(), job, on_progress=interrupt)
    here = len(committed(out))
    assert 1 <= here < 4

    script = f"""
        import os, signal
        from tests.scan.test_cluster import FAKE, job_of, scan_on
        if __name__ == "__main__":
            job = job_of({str(source)!r}, {str(out)!r})
            begun = []
            def kill(now):
                begun.append(now.rows)
                if now.rows > begun[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
            scan_on({address!r}, FAKE, job, workers=2, on_progress=kill)
    """
    driver = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, capture_output=True, text=True, timeout=280
    )
    assert driver.returncode == -signal.SIGKILL, driver.stderr
    assert here < len(committed(out)) < BLOCKS
    assert not out.exists()

    killed, told = [], []

    def kill_a_worker(now):
        told.append(now)
        if now.rows > told[0].rows and not killed:
            workers = [pid for pid, command in descendants().items() if "_Judges" in command]
            os.kill(workers[0], signal.SIGKILL)
            killed.append(len(committed(out)))

    summary = scan_on(address, FAKE, job, workers=2, on_progress=kill_a_worker)
    assert killed[0] < BLOCKS
    assert (summary.rows, summary.errors) == (BLOCKS * ROWS - 300, 1)
    assert summary.judged <= (BLOCKS - here) * ROWS
    assert [now.rows for now in told] == sorted(now.rows for now in told)
    assert told[-1].share == 1.0
    alike(out, undisturbed)
    assert scan(fake(), job).judged == 0
    assert not [name for name in os.listdir(job.place) if "part" in name]


# ---- the same as in one process


def test_the_embedded_model_judges_there_as_here(address, tmp_path):
    source = tmp_path / "in.csv"
    with (ROOT / "examples" / "forum_comments.csv").open() as file:
        source.write_text("".join(file.readlines()[:21]))
    common = ["scan", str(source), "--id-column", "id", "--policy", "forum-comments", "--quiet", "--model", "embedded"]
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    assert run([*common, "--out", str(here)]) == 0
    assert run([*common, "--out", str(there), "--ray", address, "--ray-workers", "1"]) == 0
    pairs = [[json.loads(line) for line in path.read_text().splitlines()] for path in (here, there)]
    assert len(pairs[0]) == len(pairs[1]) == 20
    for one, other in zip(*pairs, strict=True):
        assert one.pop("score") == pytest.approx(other.pop("score"), abs=1e-4)
        assert one.pop("category_scores") == pytest.approx(other.pop("category_scores"), abs=1e-4)
        assert one == other
    assert (there.parent / f"{there.name}.ledger" / "scan.json").read_bytes() == (
        here.parent / f"{here.name}.ledger" / "scan.json"
    ).read_bytes()


def test_rows_without_a_verdict_are_asked_about_again_there(address, tmp_path):
    source = source_of(tmp_path / "in.csv", 60)
    undisturbed, out = tmp_path / "undisturbed.jsonl", tmp_path / "out.jsonl"
    scan(fake(), job_of(source, undisturbed))

    class Faulty(FakeEngine):
        def score(self, requests):
            return [
                EngineError("no luck") if sum(request.segments[1]) % 3 == 0 else answer
                for request, answer in zip(requests, super().score(requests), strict=True)
            ]

    job = job_of(source, out)
    faulty = fake()
    faulty.engine = Faulty()
    failed = scan(faulty, job).errors
    assert failed > 5
    summary = scan_on(address, FAKE, job, retry_errors=True)
    assert (summary.judged, summary.errors, summary.rows) == (failed, 1, 60)
    alike(out, undisturbed)


# ---- what a run that was stopped leaves


@pytest.fixture
def there(tmp_path):
    """What the driver knows of a scan of 4 blocks, of which numbers 0 and 2 were committed."""
    source = source_of(tmp_path / "in.csv", 3 * ROWS + 50)
    job = job_of(source, tmp_path / "out.jsonl")
    scan(fake(), job)
    Path(job.place, "000001.jsonl").unlink()
    Path(job.place, "000003.jsonl").unlink()
    key = job.key(fake())
    with opened(job, key, False) as ledger:
        yield cluster._There(job, cluster.Work(job, FAKE, cluster._plain(key)), ledger, None)


def test_only_missing_blocks_are_read_and_as_a_scan_in_one_process_reads_them(there):
    pieces = there._pieces()
    assert [piece.number for piece in pieces] == [1, 2, 3]
    there._take_early(pieces)
    assert there._now.rows == 2 * ROWS
    spans = there._spans(pieces, {0})
    assert [(span.first, sorted(span.wanted), set(span.failed)) for span in spans] == [(0, [0, 1, 3], {0})]
    expected = {block.number: block for block in blocks(there._job.reader(), COLUMNS)}
    assert any(comment.parent for comment in expected[3].comments)
    read = list(cluster._read(there._work, {"span": [cluster.pickle.dumps(spans[0])]}))
    assert [one["failed"] for one in read] == [[True], [False], [False]]
    for one in read:
        block = cluster.pickle.loads(one["block"][0])
        assert block.comments == expected[block.number].comments
        assert block[2:] == expected[block.number][2:]


def test_parts_of_the_input_are_few_and_hold_each_missing_block_once(there, monkeypatch):
    for span, spans in ((1, 16), (2, 16), (1, 2), (8, 1)):
        monkeypatch.setattr(cluster, "_SPAN", span)
        monkeypatch.setattr(cluster, "_SPANS", spans)
        found = there._spans(there._pieces(), set())
        assert len(found) <= spans
        assert sorted(number for one in found for number in one.wanted) == [1, 2, 3]


def test_a_block_of_another_input_is_refused(there):
    pieces = there._pieces()
    other = pieces[1]._replace(mark=pieces[1].mark._replace(digest="other"))
    with pytest.raises(InvalidFile, match="block 2 differs"):
        there._take_early([pieces[0], other, pieces[2]])
    with pytest.raises(InvalidFile, match="block 2 differs"):
        there._take_early(pieces[:1])


def test_an_input_that_is_another_one_on_a_machine_is_refused(there):
    (span,) = there._spans(there._pieces(), set())
    for changed in (
        span._replace(wanted=dict.fromkeys(span.wanted, "other")),
        span._replace(wanted={9: "beyond its end"}),
    ):
        with pytest.raises(InvalidFile, match="another one"):
            list(cluster._read(there._work, {"span": [cluster.pickle.dumps(changed)]}))


def test_nothing_is_written_where_the_ledger_is_not_that_of_this_scan(there):
    block = next(blocks(there._job.reader(), COLUMNS))
    row = {"judged": cluster.pickle.dumps((block, [], []))}
    for work in (
        cluster.Work(there._job, FAKE, {**there._work.key, "model": "another"}),
        cluster.Work(cluster.replace(there._job, ledger="/nowhere/ledger"), FAKE, there._work.key),
    ):
        with pytest.raises(InvalidFile, match="ledger is not there"):
            cluster._write(work, row)
    assert not Path("/nowhere").exists()


# ---- what goes wrong


def test_a_cluster_that_is_not_there_is_told(tmp_path):
    job = job_of(source_of(tmp_path / "in.csv", 3), tmp_path / "out.jsonl")
    with pytest.raises(NotReady, match="no Ray cluster"):
        scan_on("127.0.0.1:1", FAKE, job)
    assert os.listdir(tmp_path) == ["in.csv"]


@pytest.mark.parametrize("inputs, out", [("-", "out.jsonl"), ("in.csv", "-")])
def test_pipes_are_refused(inputs, out):
    with pytest.raises(InvalidRequest, match="neither standard input"):
        scan_on("auto", FAKE, job_of(inputs, out))


def test_an_address_of_a_client_is_refused(tmp_path):
    with pytest.raises(InvalidRequest, match="not the address"):
        scan_on("ray://127.0.0.1:10001", FAKE, job_of("in.csv", "out.jsonl"))


def test_what_fails_on_a_machine_is_told_in_its_words(address, tmp_path):
    source = source_of(tmp_path / "in.csv", 3)
    with pytest.raises(InvalidFile, match="On a machine of the cluster: .*ledger is not there") as caught:
        scan_on(address, FAKE, job_of(source, tmp_path / "out.jsonl", ledger="memory://ledger"))
    assert "under the same names" in caught.value.hint
    with pytest.raises(ModelUnavailable, match="On a machine of the cluster"):
        scan_on(address, load_settings(model=str(tmp_path)), job_of(source, tmp_path / "out.jsonl"))
    record = FittedCalibration(model="another", fits=())
    job = job_of(source, tmp_path / "out.jsonl")
    job = cluster.replace(job, policy=job.policy.model_copy(update={"calibration": record}))
    with pytest.raises(InvalidPolicy, match="another"):
        scan_on(address, FAKE, job)
    assert os.listdir(tmp_path) == ["in.csv"]


def test_workers_with_another_model_are_refused(there):
    work = cluster.Work(there._job, FAKE, {**there._work.key, "model": "another"})
    with pytest.raises(InvalidSettings, match="different models"):
        cluster._Judges(work)


def test_a_lack_of_memory_and_what_nobody_foresaw_are_told_without_anybodys_words():
    from ray.exceptions import OutOfMemoryError, WorkerCrashedError

    told = cluster._explained(OutOfMemoryError("the text of a user"))
    assert "too little memory" in told.message
    failure = WorkerCrashedError()
    failure.__cause__ = ValueError("the text of a user")
    told = cluster._explained(failure)
    assert isinstance(told, EngineError)
    assert "ValueError" in str(told) and "goes on" in str(told) and "user" not in str(told)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("in.csv", "/here/in.csv"),
        ("/data/*.csv", "/data/*.csv"),
        ("s3://bucket/in.csv", "s3://bucket/in.csv"),
        ("sqlite:///forum.db", "sqlite:////here/forum.db"),
        ("sqlite:////data/forum.db", "sqlite:////data/forum.db"),
        ("postgresql://db/forum", "postgresql://db/forum"),
    ],
)
def test_names_mean_the_same_on_every_machine(name, expected, monkeypatch):
    monkeypatch.setattr(os, "getcwd", lambda: "/here")
    assert cluster._absolute(name) == expected
