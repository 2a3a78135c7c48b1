"""Reports of sweeps in every state."""

from __future__ import annotations

import re
import shutil
from typing import Protocol

import pytest

from evenload.pipeline.client import Client
from evenload.pipeline.errors import SpecError
from evenload.pipeline.figures.cost import CostSettings
from evenload.pipeline.report.compose import compose
from evenload.pipeline.report.evidence import Evidence, gather
from evenload.pipeline.report.html_page import html_page
from evenload.pipeline.report.markdown_page import markdown_page
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import AttemptState, TrialState, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore


class Home(Protocol):
    store: SweepStore
    settings: Settings
    trials: list[tuple[str, TrialSpec]]

    def add_sweep(self, seeds: tuple[int, ...] = (0,)) -> str: ...
    def confirm(self, sweep_id: str, seeds: tuple[int, ...]) -> None: ...
    def finish_all(self) -> None: ...
    def finish(self, digest: str, trial: TrialSpec) -> None: ...
    def fail(self, digest: str, trial: TrialSpec) -> None: ...
    def stop(self, digest: str, trial: TrialSpec) -> None: ...
    def record(self, digest: str, trial: TrialSpec, steps: int = 20) -> None: ...
    def claim(self, digest: str, kind: WorkKind) -> object: ...
    def evidence(self, sweep_id: str) -> Evidence: ...


def _markdown(home: Home, sweep_id: str) -> str:
    return markdown_page(compose(home.evidence(sweep_id)))


def _section(markdown: str, title: str) -> str:
    return markdown.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_report_of_a_finished_sweep_has_a_recommendation_and_evidence(home: Home) -> None:
    sweep_id = home.add_sweep(seeds=(0, 1, 2))
    home.finish_all()
    home.store.finish_sweep(sweep_id)
    text = _markdown(home, sweep_id)
    answer = _section(text, "Answer")
    for experts in (4, 8):
        assert f"**At {experts} experts, take sign 0.01: its loss of 2.903 bits" in answer
        assert f"### {experts} experts" in _section(text, "Evidence")
    evidence = _section(text, "Evidence")
    assert re.search(r"\| \*\*sign 0.01\*\* \| \*\*3\*\* \| \*\*2.903 ± 0.000\*\* \|", evidence)
    assert re.search(
        r"\| 3 \| none \| 3 \| 2\.930 ± 0\.000 \|.* 3\.00 ± 0\.00 \|.*control", evidence
    )
    assert "18 of 18 trials complete" in text
    assert "Nothing: no trial failed" in _section(text, "What went wrong")


def test_report_without_a_confirm_stage_warns(home: Home) -> None:
    sweep_id = home.add_sweep()
    home.finish_all()
    answer = _section(_markdown(home, sweep_id), "Answer")
    assert "there is no confirm stage" in answer
    assert "no claim about loss: one seed does not show" in answer
    assert f"evenload sweep extend {sweep_id} --seeds 4" in answer


def test_confirmed_figures_are_compared_with_the_search(home: Home) -> None:
    sweep_id = home.add_sweep()
    home.finish_all()
    home.confirm(sweep_id, (11, 12, 13))
    home.finish_all()
    text = _markdown(home, sweep_id)
    assert "there is no confirm stage" not in text
    assert "the best of the 3 confirmed settings" in text
    held = _section(text, "Does it hold?")
    assert "| sign 0.01, 4 experts | 2.903 | 2.903 ± 0.000 | 0.30 | 0.30 ± 0.00 |" in held


def test_trials_of_several_commits_are_reported(home: Home) -> None:
    sweep_id = home.add_sweep()
    home.finish_all()
    assert "different commits" not in _markdown(home, sweep_id)
    file = home.settings.trial_dir(home.trials[0][0]) / "provenance" / "attempt-001.json"
    file.write_text(file.read_text().replace("abc123", "def456-dirty"))
    answer = _section(_markdown(home, sweep_id), "Answer")
    assert "trials ran on 2 different commits" in answer
    assert "changes that were not committed" in answer


def test_grid_shows_only_the_search(home: Home) -> None:
    sweep_id = home.add_sweep()
    home.finish_all()
    before = _section(_markdown(home, sweep_id), "Settings by place")
    home.trials = home.trials[::3]
    home.confirm(sweep_id, (11,))
    home.finish_all()
    assert _section(_markdown(home, sweep_id), "Settings by place") == before


def test_the_grid_has_a_figure_or_a_reason_in_every_cell(home: Home) -> None:
    sweep_id = home.add_sweep()
    (broken, spec), *others = home.trials
    home.fail(broken, spec)
    for digest, trial in others[:-1]:
        home.finish(digest, trial)
    grid = _section(_markdown(home, sweep_id), "Settings by place")
    assert "| none | failed | 3.00 |" in grid
    assert "| sign 0.01 | 0.30 | queued |" in grid


def test_failed_and_stopped_trials_have_a_reason(home: Home) -> None:
    sweep_id = home.add_sweep()
    first, second, third, *_ = home.trials
    home.fail(*first)
    home.stop(*second)
    home.finish(*third)
    wrong = _section(_markdown(home, sweep_id), "What went wrong")
    assert "| 1 | FloatingPointError: step 7: loss=nan | none, 4 experts, seed 0 |" in wrong
    assert "| sign 0.001, 4 experts, seed 0 | stopped | 6 of 20 | asha: rank 3 of 3" in wrong
    assert "3 trials not finished yet" in wrong


def test_lost_attempts_are_counted_with_their_reasons(home: Home) -> None:
    sweep_id = home.add_sweep()
    digest, trial = home.trials[0]
    home.claim(digest, WorkKind.TRAIN)
    home.store.lose("worker", "worker lost: killed")
    assert home.store.attempts(digest)[0].state is AttemptState.LOST
    home.finish(digest, trial)
    wrong = _section(_markdown(home, sweep_id), "What went wrong")
    assert "1 attempt ended without a verdict: worker lost: killed (1)." in wrong
    assert "from checkpoints: 1." in wrong


def test_cost_covers_failed_trials_too(home: Home) -> None:
    sweep_id = home.add_sweep()
    home.fail(*home.trials[0])
    home.finish(*home.trials[1])
    found = home.evidence(sweep_id).cost
    assert found.core_seconds == 26 * 0.5
    assert found.joules == 26 * 0.5 * 5
    assert found.trials[0].state is TrialState.FAILED


def test_cost_of_imbalance_is_reported_by_setting_and_size(home: Home) -> None:
    sweep_id = home.add_sweep()
    home.finish_all()
    cost = _section(_markdown(home, sweep_id), "Cost")
    assert "| <setting" not in cost
    assert "| setting | 2 ranks | 4 ranks | 8 ranks |" in cost
    shares = {
        label: [float(cell.strip(" %*")) for cell in cells.strip("|").split("|")]
        for label, cells in re.findall(
            r"^\| \**([\w., ]+?)\** \|((?: \**[\d.]+%\** \|){3})$", cost, re.M
        )
    }
    shares = {name: share for name, share in shares.items() if name.endswith("8 experts")}
    assert [name.split(",")[0] for name in shares] == ["none", "sign 0.001", "sign 0.01"]
    for at_size in zip(*shares.values(), strict=True):
        assert at_size[0] > at_size[1] > at_size[2]


def test_maps_show_the_recommended_and_the_least_even_run(home: Home) -> None:
    sweep_id = home.add_sweep()
    home.finish_all()
    best, worst = home.evidence(sweep_id).maps
    assert (best.name, worst.name) == ("sign 0.01, 8 experts", "none, 8 experts")
    assert worst.percent_LE.shape == (2, 8)
    assert worst.percent_LE[:, 0].tolist() == [400, 400]
    assert worst.percent_BE.shape == (20, 8)
    assert (worst.percent_BE[:, 0] == 400).all()
    assert worst.step_B.tolist() == list(range(1, 21))


def test_report_explains_how_to_repeat_the_sweep(home: Home) -> None:
    sweep_id = home.add_sweep()
    home.finish_all()
    text = _section(_markdown(home, sweep_id), "How to reproduce it")
    assert "git checkout abc123" in text
    assert "evenload sweep run demo.yaml" in text
    assert "model.num_experts: [4, 8]" in text
    assert "| corpus digest | c0ffee |" in text
    for digest, _ in home.trials:
        assert f"| {digest} |" in text


def test_yaml_in_the_report_is_the_same_sweep(home: Home) -> None:
    import yaml

    from evenload.pipeline.spec.sweep import SweepSpec

    sweep_id = home.add_sweep()
    text = _section(_markdown(home, sweep_id), "How to reproduce it")
    written = text.split("### demo.yaml")[1].split("```")[1]
    assert SweepSpec.model_validate(yaml.safe_load(written)).sweep_id() == sweep_id


@pytest.mark.parametrize("state", ["submitted", "queued", "running", "finished"])
def test_pages_can_be_rendered_in_every_state(home: Home, state: str) -> None:
    sweep_id = home.add_sweep()
    if state == "submitted":
        from evenload.pipeline.spec.sweep import SweepSpec

        spec = SweepSpec.model_validate(home.store.sweep(sweep_id).spec)
        sweep_id = home.store.submit(spec.model_copy(update={"name": "new"}))
    if state == "running":
        home.claim(home.trials[0][0], WorkKind.TRAIN)
        home.record(*home.trials[0], steps=3)
    if state == "finished":
        home.finish_all()
    page = compose(home.evidence(sweep_id))
    assert html_page(page).count("<section") == len(page.sections)
    assert "nan" not in re.sub(r"loss=nan", "", markdown_page(page)).lower()


def test_an_unknown_sweep_is_bad_input(home: Home) -> None:
    with pytest.raises(SpecError, match="nothing-000000"):
        gather(home.store, home.settings, CostSettings(), "nothing-000000")


def test_records_that_are_lost_are_named_with_their_paths(home: Home) -> None:
    sweep_id = home.add_sweep()
    home.finish_all()
    folders = [home.settings.trial_dir(digest) for digest, _ in home.trials]
    [part] = (folders[0] / "expert_load").glob("part-*.parquet")
    part.write_bytes(part.read_bytes()[:-20])
    (folders[1] / "expert_load" / "manifest.json").write_text("{garbled")
    shutil.rmtree(folders[2])
    [steps] = (folders[3] / "steps").glob("part-*.parquet")
    steps.unlink()
    lost = _section(_markdown(home, sweep_id), "What went wrong").replace("\\", "")
    assert f"{part} is cut off" in lost
    assert f"{folders[1]}/expert_load/manifest.json cannot be read (no JSON)" in lost
    assert f"{folders[2]} is missing" in lost
    assert f"{folders[3]}/steps has no steps 1 to 20" in lost
    assert all(digest not in lost for digest, _ in home.trials[4:])

    client = Client(home=home.settings.root)
    for digest, _ in (home.trials[0], home.trials[2], home.trials[3]):
        with pytest.raises(SpecError, match=f"trial {digest}: .*restore it"):
            client.loads(digest)
    with pytest.warns(UserWarning, match="manifest.json cannot be read"):
        assert len(client.loads(home.trials[1][0]).step_S) == 20
