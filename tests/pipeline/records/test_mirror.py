"""The mirror on a local S3 server (moto), and in memory where a server would add nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest

from evenload.pipeline.errors import SpecError, TrackingUnavailable
from evenload.pipeline.records import mirror as module
from evenload.pipeline.records.mirror import Mirror, MirrorSink, fetch, readable_dir
from evenload.pipeline.records.run import RunIdentity
from evenload.pipeline.settings import Settings
from evenload.pipeline.states import TrialState

RUN = RunIdentity(digest="d", name="n", sweep_id=None, attempt=1, spec={})
FIRST = {"checkpoints/step-10.pt": b"ten", "expert_load/part-1-10.parquet": b"1-10"}


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
    return lambda name: Settings(
        home=tmp_path / name, mirror_url=url, tracking_patience_seconds=0.01
    )


def write(settings: Settings, files: dict[str, bytes]) -> None:
    for path, content in files.items():
        file = settings.trial_dir("d") / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def read(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def started(settings: Settings) -> MirrorSink:
    assert settings.mirror_url is not None
    fetch(settings, "d")
    sink = MirrorSink(Mirror(settings.mirror_url), settings)
    sink.start(RUN)
    return sink


def test_a_host_pulls_what_another_has_pushed(host: Callable[[str], Settings]) -> None:
    a, b = host("a"), host("b")
    sink = started(a)
    write(a, FIRST | {"checkpoints/step-10.123.tmp": b"half"})
    sink.checkpoint(10, "")
    fetch(b, "d")
    assert read(b.trial_dir("d")) == FIRST
    assert a.path_of(a.uri_of(a.trial_dir("d") / "x.pt")) == a.trial_dir("d") / "x.pt"
    assert b.path_of(a.uri_of(a.trial_dir("d") / "x.pt")) == b.trial_dir("d") / "x.pt"


def test_the_state_that_another_host_continued_replaces_the_local_one(
    host: Callable[[str], Settings],
) -> None:
    a, b = host("a"), host("b")
    sink = started(a)
    write(a, FIRST)
    sink.checkpoint(10, "")
    write(a, {"expert_load/part-11-14.parquet": b"never pushed", "logs/attempt-1.log": b"hm"})
    other = started(b)
    second = {"checkpoints/step-20.pt": b"20", "expert_load/part-11-20.parquet": b"11-20"}
    write(b, second)
    (b.trial_dir("d") / "checkpoints/step-10.pt").unlink()
    other.checkpoint(20, "")
    fetch(a, "d")
    kept = {"expert_load/part-1-10.parquet": b"1-10", "logs/attempt-1.log": b"hm"}
    assert read(a.trial_dir("d")) == kept | second


def test_closing_keeps_files_that_others_have_mirrored(host: Callable[[str], Settings]) -> None:
    train, evaluation, reader = host("train"), host("evaluation"), host("reader")
    sink = started(train)
    write(train, FIRST)
    sink.checkpoint(10, "")
    scoring = started(evaluation)
    write(evaluation, {"expert_load/eval-10.parquet": b"scores"})
    scoring.close(TrialState.COMPLETED, {})
    write(train, {"logs/attempt-1.log": b"bye"})
    sink.close(TrialState.TRAINED, {})
    fetch(reader, "d")
    both = {"expert_load/eval-10.parquet": b"scores", "logs/attempt-1.log": b"bye"}
    assert read(reader.trial_dir("d")) == FIRST | both


def test_an_evaluation_that_begins_while_training_ends_removes_none_of_its_files(
    host: Callable[[str], Settings], url: str
) -> None:
    train, evaluation, reader = host("train"), host("evaluation"), host("reader")
    sink = started(train)
    write(train, FIRST | {"logs/train.log": b"step 10"})
    sink.checkpoint(10, "")
    fetch(evaluation, "d")
    (train.trial_dir("d") / "checkpoints/step-10.pt").unlink()
    last = {"checkpoints/step-20.pt": b"20", "logs/train.log": b"step 10, step 20"}
    write(train, last)
    sink.close(TrialState.TRAINED, {})
    write(evaluation, {"logs/eval.log": b"hm"})
    scoring = MirrorSink(Mirror(url), evaluation)
    scoring.start(RUN)
    write(evaluation, {"expert_load/eval-20.parquet": b"scores"})
    scoring.close(TrialState.COMPLETED, {})
    fetch(reader, "d")
    scored = {"logs/eval.log": b"hm", "expert_load/eval-20.parquet": b"scores"}
    part = "expert_load/part-1-10.parquet"
    assert read(reader.trial_dir("d")) == last | scored | {part: FIRST[part]}


def test_changes_that_an_attempt_makes_before_its_sink_starts_are_mirrored(
    host: Callable[[str], Settings], url: str
) -> None:
    a, b, reader = host("a"), host("b"), host("reader")
    sink = started(a)
    write(a, FIRST | {"expert_load/part-11-14.parquet": b"dropped on resume from step 10"})
    sink.close(TrialState.QUEUED, {})
    fetch(b, "d")
    (b.trial_dir("d") / "expert_load/part-11-14.parquet").unlink()
    write(b, {"expert_load/part-1-10.parquet": b"rewritten"})
    other = MirrorSink(Mirror(url), b)
    other.start(RUN)
    other.checkpoint(10, "")
    fetch(reader, "d")
    assert read(reader.trial_dir("d")) == FIRST | {"expert_load/part-1-10.parquet": b"rewritten"}


def test_a_push_that_is_cut_off_leaves_the_state_before_it(
    host: Callable[[str], Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = host("a"), host("b")
    sink = started(a)
    write(a, FIRST)
    sink.checkpoint(10, "")
    write(a, {"checkpoints/step-20.pt": b"20", "expert_load/part-11-20.parquet": b"11-20"})
    (a.trial_dir("d") / "checkpoints/step-10.pt").unlink()

    def cut_off(content: object, **options: object) -> str:
        raise OSError("the line is cut before the index is written")

    with monkeypatch.context() as patched:
        patched.setattr(json, "dumps", cut_off)
        sink.checkpoint(20, "")
    assert sink.errors == 1
    fetch(b, "d")
    assert read(b.trial_dir("d")) == FIRST
    sink.checkpoint(20, "")
    fetch(b, "d")
    assert "checkpoints/step-20.pt" in read(b.trial_dir("d"))
    assert "checkpoints/step-10.pt" not in read(b.trial_dir("d"))


class CutOff:
    """An object store to which the line is cut after so many calls of these names."""

    def __init__(self, files: Any, calls: int, names: tuple[str, ...]) -> None:
        self._files = files
        self._left = calls
        self._names = names

    def __getattr__(self, name: str) -> Any:
        if name not in self._names:
            return getattr(self._files, name)

        def call(*arguments: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left < 0:
                raise OSError("the line is cut")
            return getattr(self._files, name)(*arguments, **options)

        return call


SECOND = {"checkpoints/step-20.pt": b"20", "expert_load/part-11-20.parquet": b"11-20"}


@pytest.mark.parametrize("writes", range(5))
def test_after_every_write_of_a_push_another_host_finds_a_whole_state(
    tmp_path: Path, writes: int
) -> None:
    """Two files, the index, a removal: until the index is written the old state is there."""
    url = f"memory://{uuid4()}"
    a, b = (
        Settings(home=tmp_path / name, mirror_url=url, tracking_patience_seconds=0.01)
        for name in "ab"
    )
    sink = started(a)
    write(a, FIRST)
    sink.checkpoint(10, "")
    write(a, SECOND)
    (a.trial_dir("d") / "checkpoints/step-10.pt").unlink()
    mirror = sink._mirror
    mirror._files = CutOff(mirror._files, writes, ("pipe_file", "rm_file"))
    sink.checkpoint(20, "")
    assert sink.errors == (0 if writes == 4 else 1)
    fetch(b, "d")
    part = "expert_load/part-1-10.parquet"
    assert read(b.trial_dir("d")) == (FIRST if writes < 3 else SECOND | {part: FIRST[part]})


@pytest.mark.parametrize("reads", range(1, 5))
def test_after_every_read_of_a_pull_a_checkpoint_has_its_records(
    tmp_path: Path, reads: int
) -> None:
    """The first read is the index; a host that goes on from a checkpoint needs all before it."""
    url = f"memory://{uuid4()}"
    a, b = (
        Settings(home=tmp_path / name, mirror_url=url, tracking_patience_seconds=0.01)
        for name in "ab"
    )
    sink = started(a)
    write(a, FIRST | SECOND)
    (a.trial_dir("d") / "checkpoints/step-10.pt").unlink()
    sink.checkpoint(20, "")
    mirror = Mirror(url)
    mirror._files = CutOff(mirror._files, reads, ("cat_file",))
    with nullcontext() if reads == 4 else pytest.raises(OSError, match="the line is cut"):
        mirror.pull("d", b.trial_dir("d"))
    pulled = read(b.trial_dir("d"))
    assert len(pulled) == reads - 1
    assert "checkpoints/step-20.pt" not in pulled or len(pulled) == 3


def test_an_outage_is_retried_then_counted_and_the_next_push_uploads_all(
    host: Callable[[str], Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    a = host("a").model_copy(update={"tracking_patience_seconds": 1.0})
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.3)
    sink = started(a)
    write(a, FIRST)
    calls = []

    def away(self: Mirror, *arguments: object) -> None:
        calls.append(arguments)
        raise OSError("away")

    with monkeypatch.context() as patched:
        patched.setattr(Mirror, "push", away)
        sink.checkpoint(10, "")
    assert sink.errors == 1
    assert len(calls) > 1
    sink.checkpoint(10, "")
    assert sink.errors == 1
    fetch(host("b"), "d")
    assert read(host("b").trial_dir("d")) == FIRST


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
def test_an_outage_raises_tracking_unavailable(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"memory://{uuid4()}"
    a = Settings(home=tmp_path, mirror_url=url, tracking_patience_seconds=0.01)
    sink = started(a)
    monkeypatch.setattr(Mirror, "pull", refused(error))
    monkeypatch.setattr(Mirror, "push", refused(error))
    with pytest.raises(TrackingUnavailable, match="the mirror does not answer: no route"):
        fetch(a, "d")
    sink.checkpoint(10, "")
    assert sink.errors == 1
    assert read(readable_dir(a, "d")) == {}


@pytest.mark.parametrize("error", [KeyError("a fault of ours"), PermissionError("no access")])
def test_errors_other_than_outages_are_raised(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"memory://{uuid4()}"
    settings = Settings(home=tmp_path, mirror_url=url, tracking_patience_seconds=0.01)
    monkeypatch.setattr(Mirror, "pull", refused(error))
    with pytest.raises(type(error)):
        fetch(settings, "d")


@pytest.mark.parametrize("name", ["EndpointConnectionError", "ReadTimeoutError"])
def test_errors_of_the_real_botocore_are_outages(name: str) -> None:
    errors = pytest.importorskip("botocore.exceptions")
    away = getattr(errors, name)(endpoint_url="http://away", error="away")
    assert module._is_outage_of_s3(away)
    assert not module._is_outage_of_s3(errors.NoCredentialsError())


def test_a_reader_has_a_copy_and_keeps_it_during_an_outage(
    host: Callable[[str], Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    a = host("a")
    sink = started(a)
    write(a, FIRST)
    sink.checkpoint(10, "")
    write(a, {"expert_load/part-11-14.parquet": b"not yet pushed"})
    monkeypatch.setattr(module, "READERS_REFRESH_SECONDS", 0.0)
    assert read(readable_dir(a, "d")) == FIRST
    assert (a.trial_dir("d") / "expert_load/part-11-14.parquet").exists()

    def away(self: Mirror, *arguments: object) -> None:
        raise OSError("away")

    monkeypatch.setattr(Mirror, "pull", away)
    assert read(readable_dir(a, "d")) == FIRST


def test_without_a_mirror_nothing_is_copied(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    fetch(settings, "d")
    assert readable_dir(settings, "d") == settings.trial_dir("d")
    path = settings.trial_dir("d") / "checkpoints" / "a b.pt"
    assert settings.path_of(settings.uri_of(path)) == path


def test_delete_removes_the_mirrored_trial(host: Callable[[str], Settings], url: str) -> None:
    sink = started(host("a"))
    write(host("a"), FIRST)
    sink.checkpoint(10, "")
    Mirror(url).delete("d")
    Mirror(url).delete("d")
    assert Mirror(url).index("d") == {}


def test_a_url_of_an_unknown_file_system_is_refused_with_its_name() -> None:
    with pytest.raises(SpecError, match=r"mirror_url='nofs://bucket'"):
        Mirror("nofs://bucket")
