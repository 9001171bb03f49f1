import os
import resource
import signal
import subprocess
import sys
import textwrap

import fsspec
import pytest

from guard.errors import InvalidFile
from guard.scan.store import open_store


@pytest.fixture(params=["folder", "bucket"])
def store(request, tmp_path):
    if request.param == "folder":
        yield open_store(str(tmp_path / "place"))
    else:
        yield open_store("memory://place")
        fsspec.filesystem("memory").store.clear()


def test_a_place_that_is_not_there_holds_nothing(store):
    assert store.names() == []
    assert store.get("a") is None


def test_what_is_put_is_there_whole_and_what_is_removed_is_gone(store):
    with store.alone():
        store.put("b", b"123456")
        store.put("a", b"")
        store.put("b", b"7890")
        assert store.names() == ["a", "b"]
        assert (store.get("b"), store.get("b", 2), store.get("b", 99), store.get("a")) == (b"7890", b"78", b"7890", b"")
        store.remove(["b"])
        assert store.names() == ["a"]


def test_a_second_scan_is_kept_out_until_the_first_has_gone(tmp_path):
    store = open_store(str(tmp_path / "place"))
    with store.alone(), pytest.raises(InvalidFile, match="another scan"), open_store(store.place).alone():
        pass
    with open_store(store.place).alone():
        pass


def test_the_lock_of_a_scan_that_was_killed_is_free(tmp_path):
    script = f"""
        import os, signal
        from guard.scan.store import open_store
        with open_store({str(tmp_path / "place")!r}).alone():
            os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert killed.returncode == -signal.SIGKILL
    with open_store(str(tmp_path / "place")).alone():
        pass


def test_a_full_disk_is_told_and_leaves_the_earlier_file(tmp_path):
    store = open_store(str(tmp_path))
    store.put("a", b"earlier")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        with pytest.raises(InvalidFile, match="cannot be written") as caught:
            store.put("a", b"x" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    assert "goes on" in caught.value.hint
    assert store.get("a") == b"earlier"
    assert os.listdir(tmp_path) == ["a"]


def test_a_place_that_cannot_be_used_is_told(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InvalidFile, match="cannot be written"), open_store(str(tmp_path / "file")).alone():
        pass
    with pytest.raises(InvalidFile):
        open_store("nosuchkind://place")
