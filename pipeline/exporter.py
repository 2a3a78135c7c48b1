"""`python -m evenload.pipeline.exporter`: exports metrics to Prometheus.

A scrape reads the store, and the newest shard of every trial that is training. Loads are exported
per layer for the fullest, the median and the emptiest expert, so that there are few series.

Shape suffixes: S steps, L expert layers, E experts.
"""

import argparse
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from evenload.pipeline.errors import SpecError, StoreUnavailable
from evenload.pipeline.escaping import for_log
from evenload.pipeline.figures.loads import Loads, utilisation
from evenload.pipeline.figures.metrics import METRICS, figures
from evenload.pipeline.records.mirror import readable_dir
from evenload.pipeline.records.shards import parts, read_history
from evenload.pipeline.redaction import start_logging
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import SweepRecord, SweepState, TrialRecord, TrialState
from evenload.pipeline.store.sweep_store import SweepStore

logger = logging.getLogger(__name__)

PORT = 9464
TRIAL = ("trial", "rule", "experts")
OF_HEARTBEATS = ("tokens_per_second", "max_vio")  # known without access to shards
Labels = tuple[str, str, str]  # the values of TRIAL
LOADS: dict[str, Callable[[NDArray[np.float64]], np.float64]] = {
    "fullest": np.max,
    "median": np.median,
    "emptiest": np.min,
}


class Exporter(Collector):
    """Exports the state of all sweeps at every scrape.

    If the store does not answer, it exports only `evenload_up`, which is 0 then.
    """

    def __init__(self, store: SweepStore, settings: Settings) -> None:
        self._store = store
        self._settings = settings

    def collect(self) -> Iterator[Metric]:
        try:
            sweeps = self._store.sweeps()
            trials = {
                trial.digest: trial
                for sweep in sweeps
                for trial in self._store.trials(sweep.sweep_id)
            }
        except (StoreUnavailable, SpecError) as error:
            logger.warning("%s", error)
            yield _up(False)
            return
        yield _up(True)
        yield from counts(sweeps, list(trials.values()))
        running = [trial for trial in trials.values() if trial.state is TrialState.TRAINING]
        yield from progress(running)
        yield from loads({_labels(trial): self._newest_loads(trial) for trial in running})

    def _newest_loads(self, trial: TrialRecord) -> Loads:
        folder = readable_dir(self._settings, trial.digest)
        newest = parts(folder / "expert_load")[-1:]
        first = newest[0].first if newest else 1
        history = read_history(folder, first=first, columns=["load"])
        return Loads.of(TrialSpec.model_validate(trial.spec), history.count_SLE)


def counts(sweeps: list[SweepRecord], trials: list[TrialRecord]) -> Iterator[Metric]:
    """The number of sweeps and trials by state, and of lost attempts."""
    by_state = GaugeMetricFamily("evenload_sweeps", "Sweeps by state", labels=["state"])
    found: Counter[str] = Counter(sweep.state for sweep in sweeps)
    for sweep_state in SweepState:
        by_state.add_metric([sweep_state], found[sweep_state])
    yield by_state
    by_state = GaugeMetricFamily("evenload_trials", "Trials by state", labels=["state"])
    found = Counter(trial.state for trial in trials)
    for state in TrialState:
        by_state.add_metric([state], found[state])
    yield by_state
    yield GaugeMetricFamily(
        "evenload_queue",
        "Trials that wait for a worker",
        value=found[TrialState.QUEUED] + found[TrialState.TRAINED],
    )
    yield CounterMetricFamily(
        "evenload_lost_attempts",
        "Attempts of all trials that ended without a verdict",
        value=sum(trial.failures for trial in trials),
    )


def progress(running: list[TrialRecord]) -> Iterator[Metric]:
    """The progress of trials at their last heartbeat."""
    families = {
        "step": _gauge("step", "Optimizer steps done"),
        "steps": _gauge("steps", "Optimizer steps in all"),
        "loss": _gauge("loss_nats", _help("loss")),
        **{name: _gauge(name, _help(name)) for name in OF_HEARTBEATS},
    }
    for trial in running:
        if trial.progress is not None:
            for name, family in families.items():
                family.add_metric(_labels(trial), float(getattr(trial.progress, name)))
    yield from families.values()


def loads(newest: Mapping[Labels, Loads]) -> Iterator[Metric]:
    """The metrics of the steps in the newest shard of each trial."""
    counted = {trial: found for trial, found in newest.items() if found.count_SLE.size}
    found = {trial: figures("step", shard) for trial, shard in counted.items()}
    for metric in METRICS.values():
        if metric.compute and "step" in metric.of and metric.name not in OF_HEARTBEATS:
            family = _gauge(metric.name, f"{_help(metric.name)}; newest shard")
            for trial, by_name in found.items():
                family.add_metric(trial, by_name[metric.name])
            yield family
    ratio = GaugeMetricFamily(
        "evenload_layer_load_ratio",
        f"{_help('utilisation')}; by expert layer, newest shard",
        labels=[*TRIAL, "layer", "expert"],
    )
    for trial, shard in counted.items():
        for layer, ratio_E in enumerate(utilisation(shard.count_SLE.sum(axis=0), shard.target_E)):
            for which, pick in LOADS.items():
                ratio.add_metric([*trial, str(layer), which], float(pick(ratio_E)))
    yield ratio


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"evenload_trial_{name}", text, labels=TRIAL)


def _help(name: str) -> str:
    metric = METRICS[name]
    return f"{metric.title}: {metric.meaning}; {'share' if metric.is_share else metric.unit}"


def _up(answers: bool) -> Metric:
    return GaugeMetricFamily("evenload_up", "Whether the store answers", value=float(answers))


def _labels(trial: TrialRecord) -> Labels:
    return trial.digest, for_log(trial.label), str(trial.spec["model"]["num_experts"])


def serve(settings: Settings, port: int, address: str = "127.0.0.1") -> int:
    """Answers scrapes in the background; returns the port. Port 0: the system chooses one."""
    registry = CollectorRegistry()
    registry.register(
        Exporter(SweepStore(settings.reader_url or settings.store_url, read_only=True), settings)
    )
    server, _ = start_http_server(port, address, registry)
    return int(server.server_port)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--address", default="127.0.0.1")
    arguments = parser.parse_args()
    settings = Settings()
    start_logging(settings)
    serve(settings, arguments.port, arguments.address)
    threading.Event().wait()


if __name__ == "__main__":
    main()
