"""`evenload audit`: looks for reasons to distrust the answer of a sweep."""

from collections.abc import Iterable

from pydantic import ValidationError
from rich.text import Text

from evenload.pipeline.errors import SpecError
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import TrialRecord
from evenload.pipeline.sweep.answer import answer
from evenload.pipeline.sweep.audit import audit, read_facts
from evenload.workers.cli.session import AsJson, load_settings, open_store, out, print_json
from evenload.workers.cli.verbs import Home, SweepId


def audit_command(sweep_id: SweepId, as_json: AsJson = False, home: Home = None) -> None:
    """Look for reasons to distrust the answer of a sweep, each with evidence and a remedy.

    Seeds, noise, edges of the grid, confounded axes, budgets, convergence, spikes, dead experts,
    held-out text in training, and data that changed since.
    """
    settings = load_settings(home)
    store = open_store(settings)
    trials = store.trials(sweep_id)
    facts = read_facts(settings, answer(store, sweep_id), trials, _corpora_now(trials, settings))
    findings = audit(facts)
    if as_json:
        print_json({"sweep_id": sweep_id, "findings": [one._asdict() for one in findings]})
        return
    for finding in findings:
        out.print(Text(f"{finding.name}:", "bold"), finding.evidence, soft_wrap=True)
        out.print(f"    {finding.remedy}\n", soft_wrap=True)
    if not findings:
        out.print("Nothing found.")


def _corpora_now(trials: Iterable[TrialRecord], settings: Settings) -> dict[str, str]:
    """The digest of each trial's corpus as its sources are now; the problem if they cannot be read.

    Trials whose spec this version cannot read are left out.
    """
    from evenload.workers.training.identity import corpus_digest

    found = {}
    for trial in trials:
        try:
            spec = TrialSpec.model_validate(trial.spec)
            found[trial.digest] = corpus_digest(spec.data, settings.corpus_dir)
        except ValidationError:  # a spec of another version
            continue
        except SpecError as error:
            found[trial.digest] = f"not readable: {error}"
    return found
