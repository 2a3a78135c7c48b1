"""Passes everything that a run records to several sinks; a failing one does not stop the others."""

import logging
from collections.abc import Callable, Sequence

from evenload.pipeline.records.fence import OPEN
from evenload.pipeline.records.run import EvalRecord, RunIdentity, Sink, StepRecord
from evenload.pipeline.records.series_sink import PooledLoadSink
from evenload.pipeline.records.shards import LoadLogSink
from evenload.pipeline.records.system_sink import SystemSink
from evenload.pipeline.settings import Settings

logger = logging.getLogger(__name__)


class SinkGroup:
    """Passes every call to each sink in order.

    `start` raises the error of the first sink that cannot start. Later failures of a sink are
    counted, and the first one is logged. `close` reaches every sink that was started, also if a
    later one could not start. All but `close` raise LeaseLost once another attempt has the trial.
    """

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = tuple(sinks)
        self._started: list[Sink] = []
        self._failures = 0
        self._complained: set[int] = set()
        self._fence = OPEN

    @property
    def errors(self) -> int:
        return self._failures + sum(sink.errors for sink in self._sinks)

    def start(self, run: RunIdentity) -> None:
        self._fence = run.fence
        self._fence.check()
        for sink in self._sinks:
            sink.start(run)
            self._started.append(sink)

    def log_steps(self, records: Sequence[StepRecord]) -> None:
        self._fence.check()
        self._each(lambda sink: sink.log_steps(records))

    def log_eval(self, record: EvalRecord) -> None:
        self._fence.check()
        self._each(lambda sink: sink.log_eval(record))

    def checkpoint(self) -> None:
        self._fence.check()
        self._each(lambda sink: sink.checkpoint())

    def close(self) -> None:
        self._each(lambda sink: sink.close())

    def _each(self, call: Callable[[Sink], None]) -> None:
        for sink in self._started:
            try:
                call(sink)
            except Exception:  # noqa: BLE001  no failure of tracking may end training
                self._failures += 1
                self._complain(sink)

    def _complain(self, sink: Sink) -> None:
        """Logs the first failure of a sink; one per step would fill the log."""
        if id(sink) not in self._complained:
            self._complained.add(id(sink))
            logger.exception("%s failed; training continues without it", type(sink).__name__)


def default_sinks(settings: Settings, run: RunIdentity) -> SinkGroup:
    """Sinks, not yet started, that write below the trial's folder."""
    folder = settings.trial_dir(run.digest)
    return SinkGroup([LoadLogSink(folder), PooledLoadSink(folder), SystemSink(folder)])
