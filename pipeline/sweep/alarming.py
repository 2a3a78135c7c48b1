"""Decides which alarms of sweeps are due, and sends them from a thread beside the coordinator.

What was sent is noted in the store, as a deed of `alarms`. So an alarm that a restart or a receiver
that was down kept back is sent by the next look, and no later process sends it again.
"""

import logging
import math
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

import numpy as np

from evenload.pipeline.alarms import Alarm, NotDelivered, dead_experts, receiver, send
from evenload.pipeline.errors import StoreUnavailable
from evenload.pipeline.figures.loads import DEAD_WINDOW, dead_tenth
from evenload.pipeline.figures.wording import counted
from evenload.pipeline.records.mirror import readable_dir
from evenload.pipeline.records.shards import parts, read_history
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import SweepRecord, SweepState, TrialRecord, TrialState
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.answer import Answer, answer_of, readable_spec
from evenload.pipeline.sweep.answer_text import sentence

logger = logging.getLogger(__name__)

LOOK_SECONDS, MAX_WAIT_SECONDS = 10.0, 600.0
MAX_SHARE = 0.1  # largest share of the time that looking may take
LAST_SECONDS = 10.0  # how long the end of a command waits for the last look
FORGOTTEN = timedelta(days=1)  # a sweep that ended before raises no alarms any more


class Watched(NamedTuple):
    """What alarms about a sweep depend on."""

    sweep: SweepRecord
    trials: Sequence[TrialRecord]
    answer: Answer | None = None  # None: it cannot have changed
    dead_share: Mapping[str, float] = {}  # of running trials, by digest


def due(seen: Watched, told: Collection[tuple[str, str | None]]) -> list[Alarm]:
    """The alarms that a sweep gives cause for, without those that were sent.

    Dead experts: the share `dead_tenth` of a trial is not zero; trials without balancing (`none`)
    are left out, because they exist to show it. A verdict: the answer names a setting for the first
    time. A failure: the program paused the sweep, or it has ended with trials that failed.
    """
    return [alarm for alarm in _causes(seen) if alarm.key not in told]


def _causes(seen: Watched) -> Iterator[Alarm]:
    sweep, sweep_id = seen.sweep, seen.sweep.sweep_id
    for trial in seen.trials:
        share = seen.dead_share.get(trial.digest, trial.figure("dead_tenth"))
        if share > 0 and trial.spec["balancer"]["kind"] != "none":
            name = f"{trial.label}, {trial.spec['model']['num_experts']} experts"
            yield dead_experts(sweep_id, trial.digest, name, share)
    if seen.answer is not None and seen.answer.named:
        yield Alarm("verdict", sweep_id, None, f"{sweep_id} has a verdict. {sentence(seen.answer)}")
    failed = [trial for trial in seen.trials if trial.state is TrialState.FAILED]
    if sweep.state is SweepState.PAUSED and sweep.note:
        yield Alarm("sweep-failed", sweep_id, None, f"{sweep_id} is paused: {sweep.note}")
    elif sweep.state is SweepState.FINISHED and failed:
        last = ((failed[-1].error or "").strip().splitlines() or ["no reason was stored"])[-1]
        text = f"{sweep_id} has ended; {len(failed)} of {counted(len(seen.trials), 'trial')} failed"
        yield Alarm("sweep-failed", sweep_id, None, f"{text}: {last}")


class Watch:
    """Looks at the sweeps of a store, and sends what is due."""

    def __init__(self, store: SweepStore, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._seen: dict[str, object] = {}  # what each sweep was when all its alarms were sent

    def look(self) -> bool:
        """Returns whether everything that is due was sent. Never raises."""
        is_fine, about = True, "the store"
        try:
            now = self._store.now()
            for sweep in self._store.sweeps():
                about = sweep.sweep_id
                if sweep.finished_at is None or now - sweep.finished_at < FORGOTTEN:
                    is_fine &= self._look_at(sweep)
        except (StoreUnavailable, NotDelivered) as error:
            logger.warning("alarms wait: %s", error)
            return False
        except Exception:  # whatever it is, no other thread may end with this one unnoticed
            logger.exception("alarms about %s wait", about)
            return False
        return is_fine

    def _look_at(self, sweep: SweepRecord) -> bool:
        sweep_id = sweep.sweep_id
        told = self._store.told(sweep_id)
        state = (sweep.state, sweep.note, self._store.counts(sweep_id))
        is_changed = self._seen.get(sweep_id) != state
        trials = self._store.trials(sweep_id, None if is_changed else [TrialState.TRAINING])
        answer = None
        if is_changed and ("verdict", None) not in told:
            answer = answer_of(trials, readable_spec(self._store, sweep_id), sweep_id=sweep_id)
        training = [trial for trial in trials if trial.state is TrialState.TRAINING]
        shares = {trial.digest: dead_share(trial, self._settings) for trial in training}
        refused = False
        for alarm in due(Watched(sweep, trials, answer, shares), told):
            try:
                send(alarm, self._settings)
                self._store.note_alarm(alarm.kind, sweep_id, alarm.trial)
            except NotDelivered as error:
                if not error.refused:
                    raise
                refused = True
                logger.warning("alarm %s: %s", alarm.id, error)
        if not refused:
            self._seen[sweep_id] = state
        return not refused


def dead_share(trial: TrialRecord, settings: Settings) -> float:
    """The share `dead_tenth` of the newest recorded steps; NaN before there are enough."""
    folder = readable_dir(settings, trial.digest)
    last = max((part.last for part in parts(folder / "expert_load")), default=0)
    if last < DEAD_WINDOW:
        return math.nan
    count_SLE = read_history(folder, first=last - DEAD_WINDOW + 1, columns=["load"]).count_SLE
    target = TrialSpec.model_validate(trial.spec).balancer.target
    share_L = dead_tenth(count_SLE.sum(axis=0, dtype=np.int64), target)
    return float(share_L.mean()) if share_L.size else math.nan


@contextmanager
def alarming(store: SweepStore, settings: Settings) -> Iterator[None]:
    """Looks every few seconds, less often while the receiver is away, and once more at the end.

    Without EVENLOAD_ALERT_URL it does nothing. The thread is a daemon: nobody waits for a receiver,
    except LAST_SECONDS at the end.
    """
    if settings.alert_url is None:
        yield
        return
    logger.info("alarms go to %s", receiver(settings))
    watch, ended = Watch(store, settings), threading.Event()

    def repeat() -> None:
        wait_seconds = LOOK_SECONDS
        while not ended.wait(wait_seconds):
            began = time.monotonic()
            is_fine = watch.look()
            took = time.monotonic() - began
            longer = max(LOOK_SECONDS, took / MAX_SHARE) if is_fine else 2 * wait_seconds
            wait_seconds = min(longer, MAX_WAIT_SECONDS)
        watch.look()

    thread = threading.Thread(target=repeat, name="alarms", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(LAST_SECONDS)
        if thread.is_alive():
            logger.warning("alarms wait: %s is slow; the next start sends them", receiver(settings))
