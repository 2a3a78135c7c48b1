"""The mirror on a local S3 server (moto), and in memory where a server would add nothing."""

from __future__ import annotations

import json
import os
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest

from evenload.pipeline import outage
from evenload.pipeline.errors import MirrorUnavailable, SpecError
from evenload.pipeline.records import mirror as module
from evenload.pipeline.records.mirror import Mirror, Mirrored, fetch, readable_dir
from evenload.pipeline.settings import Settings

FIRST = {
    "checkpoints/step-00000010.pt": b"ten",
    "expert_load/part-00000001-00000010.parquet": b"1-10",
}
SECOND = {
    "checkpoints/step-00000020.pt": b"twenty",
    "expert_load/part-00000011-00000020.parquet": b"11-20",
}


@pytest.fixture(scope="module")
def s3_bucket() -> Iterator[str]:
    """Starts a server; the URL of a bucket on it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    fsspec.filesystem("s3").mkdir("evenload")
    yield "s3://evenload"
    server.stop()
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


@pytest.fixture(params=["memory", "s3"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return f"memory://{uuid4()}"
    return f"{request.getfixturevalue('s3_bucket')}/{uuid4()}"


@pytest.fixture
def host(url: str, tmp_path: Path) -> Callable[[str], Settings]:
    """Makes the settings of a named host, which has its own disk."""
    return lambda name: Settings(home=tmp_path / name, mirror_url=url)


def write(settings: Settings, files: dict[str, bytes]) -> None:
    for path, content in files.items():
        file = settings.trial_dir("d") / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def remove(settings: Settings, path: str) -> None:
    (settings.trial_dir("d") / path).unlink()


def read(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def push(settings: Settings, attempt: int, last: int | None = None) -> None:
    assert settings.mirror_url is not None
    Mirror(settings.mirror_url).push("d", attempt, settings.trial_dir("d"), last)


def pulled(settings: Settings) -> dict[str, bytes]:
    fetch(settings, "d")
    return read(settings.trial_dir("d"))


def test_a_host_pulls_what_another_has_pushed(host: Callable[[str], Settings]) -> None:
    a, b = host("a"), host("b")
    fetch(a, "d")
    write(a, FIRST | {"checkpoints/step-10.123.tmp": b"half"})
    push(a, 1)
    assert pulled(b) == FIRST
    assert a.path_of(a.uri_of(a.trial_dir("d") / "x.pt")) == a.trial_dir("d") / "x.pt"
    assert b.path_of(a.uri_of(a.trial_dir("d") / "x.pt")) == b.trial_dir("d") / "x.pt"


def test_the_state_that_another_host_continued_replaces_the_local_one(
    host: Callable[[str], Settings],
) -> None:
    a, b = host("a"), host("b")
    write(a, FIRST)
    push(a, 1)
    write(
        a,
        {
            "expert_load/part-00000011-00000014.parquet": b"never pushed",
            "logs/attempt-1.log": b"hm",
        },
    )
    fetch(b, "d")
    write(b, SECOND)
    remove(b, "checkpoints/step-00000010.pt")
    push(b, 2)
    kept = {"expert_load/part-00000001-00000010.parquet": b"1-10", "logs/attempt-1.log": b"hm"}
    assert pulled(a) == kept | SECOND


def test_attempts_that_overlap_keep_each_others_files(host: Callable[[str], Settings]) -> None:
    """An evaluation begins while the training writes the end of its log."""
    train, evaluation, reader = host("train"), host("evaluation"), host("reader")
    write(train, FIRST | {"logs/train.log": b"step 10"})
    push(train, 1)
    fetch(evaluation, "d")
    write(evaluation, {"expert_load/eval-10.parquet": b"scores", "logs/eval.log": b"hm"})
    push(evaluation, 2)
    write(
        train,
        {
            "logs/train.log": b"step 10, the end",
            "expert_load/part-00000001-00000010.parquet": b"late",
        },
    )
    push(train, 1)
    logs = {"logs/train.log": b"step 10", "logs/eval.log": b"hm"}
    assert pulled(reader) == FIRST | logs | {"expert_load/eval-10.parquet": b"scores"}


def test_a_lost_attempt_that_still_writes_changes_nothing_for_its_successor(
    host: Callable[[str], Settings],
) -> None:
    lost, successor, reader = host("lost"), host("successor"), host("reader")
    write(lost, FIRST)
    push(lost, 1)
    fetch(successor, "d")
    write(successor, SECOND)
    remove(successor, "checkpoints/step-00000010.pt")
    push(successor, 2)
    write(lost, {"checkpoints/step-00000020.pt": b"of another training"})
    push(lost, 1)
    part = "expert_load/part-00000001-00000010.parquet"
    assert pulled(reader) == SECOND | {part: FIRST[part]}


class Cut:
    """An object store to which the line is cut after so many calls of these names."""

    def __init__(self, files: Any, calls: int, names: tuple[str, ...]) -> None:
        self._files = files
        self._left = calls
        self._names = names
        self.called: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name not in self._names:
            return getattr(self._files, name)

        def call(*arguments: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left < 0:
                raise OSError("the line is cut")
            self.called.append(name)
            return getattr(self._files, name)(*arguments, **options)

        return call


WRITES = ("put_file", "pipe_file", "rm_file")


def cut(url: str, calls: int, names: tuple[str, ...]) -> tuple[Mirror, Cut]:
    mirror = Mirror(url)
    mirror._files = line = Cut(mirror._files, calls, names)
    return mirror, line


@pytest.mark.parametrize("writes", range(5))
def test_after_every_write_of_a_push_another_host_finds_a_whole_state(
    tmp_path: Path, writes: int
) -> None:
    """Two files, LATEST, a removal: until LATEST is written the old state is there."""
    url = f"memory://{uuid4()}"
    a, b = (Settings(home=tmp_path / name, mirror_url=url) for name in "ab")
    write(a, FIRST)
    push(a, 1)
    write(a, SECOND)
    remove(a, "checkpoints/step-00000010.pt")
    mirror, _ = cut(url, writes, WRITES)
    with nullcontext() if writes == 4 else pytest.raises(MirrorUnavailable, match="is cut"):
        mirror.push("d", 1, a.trial_dir("d"))
    part = "expert_load/part-00000001-00000010.parquet"
    whole = SECOND | {part: FIRST[part]}
    assert pulled(b) == (FIRST if writes < 3 else whole)
    push(a, 1)
    assert pulled(b) == whole


@pytest.mark.parametrize("reads", range(4))
def test_after_every_read_of_a_pull_a_checkpoint_has_its_records(
    tmp_path: Path, reads: int
) -> None:
    url = f"memory://{uuid4()}"
    a, b = (Settings(home=tmp_path / name, mirror_url=url) for name in "ab")
    write(a, FIRST | SECOND)
    remove(a, "checkpoints/step-00000010.pt")
    push(a, 1)
    mirror, _ = cut(url, reads, ("get_file",))
    with nullcontext() if reads == 3 else pytest.raises(MirrorUnavailable, match="is cut"):
        mirror.pull("d", b.trial_dir("d"))
    found = read(b.trial_dir("d"))
    assert len(found) == reads
    assert "checkpoints/step-00000020.pt" not in found or len(found) == 3


def test_a_push_uploads_what_has_changed_and_reads_nothing_else(tmp_path: Path) -> None:
    url = f"memory://{uuid4()}"
    a, b = (Settings(home=tmp_path / name, mirror_url=url) for name in "ab")
    write(a, FIRST | SECOND | {"logs/attempt-1.log": b"hm"})
    push(a, 1)
    for settings, attempt, changed in (
        (a, 1, {}),
        (b, 2, {"steps/part-00000021-00000030.parquet": b"x"}),
    ):
        fetch(settings, "d")
        write(settings, changed)
        for path in FIRST | SECOND:
            (settings.trial_dir("d") / path).chmod(0)
        mirror, line = cut(url, 9, WRITES)
        mirror.push("d", attempt, settings.trial_dir("d"))
        assert line.called == ["put_file"] * len(changed) + ["pipe_file"]


def test_a_large_file_goes_through_a_small_memory(tmp_path: Path) -> None:
    store = tmp_path / "store"
    a, b = (Settings(home=tmp_path / name, mirror_url=store.as_uri()) for name in "ab")
    write(a, {"checkpoints/step-00000010.pt": b"\0" * 2**26})
    tracemalloc.start()
    push(a, 1)
    fetch(b, "d")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**23
    assert (b.trial_dir("d") / "checkpoints/step-00000010.pt").stat().st_size == 2**26


def test_records_that_an_attempt_still_writes_wait_for_the_next_checkpoint(
    tmp_path: Path,
) -> None:
    a, b = (Settings(home=tmp_path / name, mirror_url=f"memory://{tmp_path.name}") for name in "ab")
    write(a, FIRST | {"expert_load/part-00000011-00000014.parquet": b"grows"})
    push(a, 1, last=10)
    assert pulled(b) == FIRST


def test_a_mirror_without_folders_of_attempts_still_opens(tmp_path: Path) -> None:
    """As versions before 0.1.0 wrote it."""
    store = tmp_path / "store" / "trials" / "d"
    write(Settings(home=tmp_path / "store"), FIRST)
    (store / "index.json").write_text(json.dumps(dict.fromkeys(FIRST, "a digest")))
    a, b = (
        Settings(home=tmp_path / name, mirror_url=(tmp_path / "store").as_uri()) for name in "ab"
    )
    assert pulled(a) == FIRST
    write(a, SECOND)
    push(a, 3)
    assert pulled(b) == FIRST | SECOND


def refused(error: Exception) -> Callable[..., None]:
    def call(*arguments: object) -> None:
        raise error

    return call


class ConnectionOfBotocore(Exception):
    """Stands in for botocore.exceptions.ConnectionError, which need not be installed."""


ConnectionOfBotocore.__module__ = "botocore.exceptions"
ConnectionOfBotocore.__name__ = "ConnectionError"


class EndpointConnectionError(ConnectionOfBotocore): ...


OUTAGES = (OSError("no route"), EndpointConnectionError("no route"))


@pytest.mark.parametrize("error", OUTAGES, ids=lambda error: type(error).__name__)
def test_an_attempt_waits_for_the_mirror_until_it_is_told_to_stop(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = Settings(home=tmp_path, mirror_url=f"memory://{uuid4()}")
    monkeypatch.setattr(outage, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(Mirror, "_find", refused(error))
    looks = iter([False, False, True])
    with pytest.raises(MirrorUnavailable, match="the mirror does not answer: no route"):
        fetch(a, "d", lambda: next(looks))
    looks = iter([False, False, True])
    with Mirrored(a, "d", 1) as mirrored:
        mirrored.begin()
        with pytest.raises(MirrorUnavailable, match="the mirror does not answer: no route"):
            mirrored.deliver(lambda: next(looks))
        mirrored.push_rest()
    assert mirrored.errors == 2
    assert read(readable_dir(a, "d")) == {}


def test_a_checkpoint_is_mirrored_while_training_goes_on_and_repeated_after_an_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = (Settings(home=tmp_path / name, mirror_url=f"memory://{tmp_path.name}") for name in "ab")
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    whole, calls = Mirror._put, []

    def away_at_first(self: Mirror, *arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1:
            raise OSError("no route")
        return whole(self, *arguments)

    monkeypatch.setattr(Mirror, "_put", away_at_first)
    with Mirrored(a, "d", 1) as mirrored:
        mirrored.begin()
        write(a, FIRST)
        deadline = time.monotonic() + 20
        while pulled(b) != FIRST and time.monotonic() < deadline:
            time.sleep(0.02)
        assert pulled(b) == FIRST
    assert mirrored.errors == 1


@pytest.mark.parametrize("error", [KeyError("a fault of ours"), PermissionError("no access")])
def test_errors_other_than_outages_are_raised(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(home=tmp_path, mirror_url=f"memory://{uuid4()}")
    monkeypatch.setattr(Mirror, "_find", refused(error))
    with pytest.raises(type(error)):
        fetch(settings, "d")


@pytest.mark.parametrize("name", ["EndpointConnectionError", "ReadTimeoutError"])
def test_errors_of_the_real_botocore_are_outages(name: str) -> None:
    errors = pytest.importorskip("botocore.exceptions")
    away = getattr(errors, name)(endpoint_url="http://away", error="away")
    assert module._is_outage_of_s3(away)
    assert not module._is_outage_of_s3(errors.NoCredentialsError())


def test_a_reader_has_a_copy_without_checkpoints_and_keeps_it_during_an_outage(
    host: Callable[[str], Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    a = host("a")
    write(a, FIRST)
    push(a, 1)
    write(a, {"expert_load/part-00000011-00000014.parquet": b"not yet pushed"})
    monkeypatch.setattr(module, "READERS_REFRESH_SECONDS", 0.0)
    part = "expert_load/part-00000001-00000010.parquet"
    assert read(readable_dir(a, "d")) == {part: FIRST[part]}
    assert (a.trial_dir("d") / "expert_load/part-00000011-00000014.parquet").exists()
    assert read(readable_dir(a, "d", with_checkpoints=True)) == FIRST
    monkeypatch.setattr(Mirror, "_find", refused(OSError("away")))
    assert read(readable_dir(a, "d")) == FIRST


def test_without_a_mirror_nothing_is_copied(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    fetch(settings, "d")
    assert readable_dir(settings, "d") == settings.trial_dir("d")
    path = settings.trial_dir("d") / "checkpoints" / "a b.pt"
    assert settings.path_of(settings.uri_of(path)) == path


def test_delete_removes_the_mirrored_trial(host: Callable[[str], Settings], url: str) -> None:
    write(host("a"), FIRST)
    push(host("a"), 1)
    for _ in range(2):
        Mirror(url).delete("d")
    assert pulled(host("b")) == {}


def test_a_url_of_an_unknown_file_system_is_refused_with_its_name() -> None:
    with pytest.raises(SpecError, match=r"mirror_url='nofs://bucket'"):
        Mirror("nofs://bucket")
