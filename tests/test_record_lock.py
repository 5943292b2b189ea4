"""One run at a time in a folder; a lock never outlives its process."""

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import socket
import threading
import time

import pytest

from plugip.record import Record, RecordError
from plugip.record.lock import NAME, FolderLock

CONFIG = {"rng_seed": 0}


def _hold(folder, ready):
    with Record(folder, CONFIG):
        ready.set()
        time.sleep(60)


@pytest.fixture
def other(tmp_path):
    """Another process whose run has the folder."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "run", ready))
    process.start()
    assert ready.wait(20)
    yield process
    process.kill()
    process.join(20)


def test_a_second_run_is_refused_with_folder_host_and_process(tmp_path, other):
    with pytest.raises(RecordError) as caught:
        Record(tmp_path / "run", CONFIG)
    said = str(caught.value)
    for word in (str(tmp_path / "run"), socket.gethostname(), str(other.pid), "output.folder"):
        assert word in said
    assert "\n" not in said
    assert (tmp_path / "run" / NAME).exists()  # the refused one leaves the other's lock alone


def test_by_another_name_it_is_the_same_folder(tmp_path, other):
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with pytest.raises(RecordError, match=str(other.pid)):
        Record(tmp_path / "link", CONFIG)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_lets_go(tmp_path, other, how):
    os.kill(other.pid, how)
    other.join(20)
    assert (tmp_path / "run" / NAME).exists()
    Record(tmp_path / "run", CONFIG).close()


def test_the_folder_is_free_after_the_end(tmp_path):
    (tmp_path / "run").mkdir()
    with Record(tmp_path / "run", CONFIG):
        assert (tmp_path / "run" / NAME).exists()
    assert not (tmp_path / "run" / NAME).exists()
    lock = FolderLock(tmp_path / "run")
    lock.release()
    lock.release()


def test_a_record_that_nobody_keeps_lets_go(tmp_path):
    Record(tmp_path / "run", CONFIG)
    assert not (tmp_path / "run").exists()  # made for nothing


def test_a_refused_run_lets_go(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"mine\.txt"):
        Record(tmp_path / "run", CONFIG)
    FolderLock(tmp_path / "run").release()


def test_a_lock_that_cannot_be_signed_is_one_all_the_same(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr("plugip.record.lock.os.ftruncate", full)
    for _ in range(2):
        with FolderLock(tmp_path / "run"), pytest.raises(RecordError, match="another run"):
            FolderLock(tmp_path / "run")


def test_a_notebook_may_run_a_cell_again_but_not_two_at_a_time(tmp_path):
    first = Record(tmp_path / "run", CONFIG)
    again = Record(tmp_path / "run", CONFIG)
    refused = []

    def run():
        try:
            Record(tmp_path / "run", CONFIG)
        except RecordError as error:
            refused.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert len(refused) == 1 and str(os.getpid()) in refused[0]
    first.close()
    assert (tmp_path / "run" / NAME).exists()
    again.close()
    assert not (tmp_path / "run" / NAME).exists()


def test_of_the_processes_of_one_run_the_first_keeps_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    first = Record(tmp_path / "run", CONFIG)
    monkeypatch.setenv("RANK", "1")
    Record(tmp_path / "run", CONFIG).close()
    lock = tmp_path / "run" / NAME
    assert json.loads(lock.read_text())["process"] == os.getpid()
    first.close()
    assert not lock.exists()


def _fork_while_holding(folder, pipe):
    with Record(folder, CONFIG):
        child = os.fork()
        if child:
            pipe.send(child)
        else:  # it says that it has begun, so that its copy of the lock is closed
            pipe.send(0)
        time.sleep(60)


def test_a_child_that_outlives_its_run_does_not_keep_the_folder(tmp_path):
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    run = context.Process(target=_fork_while_holding, args=(tmp_path / "run", there))
    run.start()
    child = max(here.recv(), here.recv())
    run.kill()
    run.join()
    try:
        Record(tmp_path / "run", CONFIG).close()
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_disk_without_locks_is_used_with_a_word(tmp_path, monkeypatch, caplog, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    Record(tmp_path / "run", CONFIG).close()
    assert "locks" in caplog.text and str(tmp_path / "run") in caplog.text


@pytest.mark.parametrize("kind", ["folder", "link", "nowhere"])
def test_what_stands_in_the_place_of_the_lock_is_one_sentence(tmp_path, kind):
    (tmp_path / "victim").write_text("precious")
    place = tmp_path / "run" / NAME
    place.parent.mkdir()
    if kind == "folder":
        place.mkdir()
    elif kind == "link":
        place.symlink_to(tmp_path / "victim")
    else:
        place.parent.rmdir()
        place.parent.symlink_to(tmp_path / "gone")
    with pytest.raises(RecordError, match=r"output\.folder"):
        Record(tmp_path / "run", CONFIG)
    assert (tmp_path / "victim").read_text() == "precious"
