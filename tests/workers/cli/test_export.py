"""`evenload export` writes a trained trial as a folder that transformers loads, or refuses it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.workers.data.corpus import prepare
from evenload.workers.data.shards import even_windows
from evenload.workers.model.contract import next_token_loss

Sweep = Callable[..., dict[str, Any]]

FILES = {
    "README.md",
    "config.json",
    "evenload.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}


def write_corpus(folder: Path) -> None:
    (folder / "texts").mkdir()
    for number in range(40):
        lines = [f"def f{n}(x):\n    return x + {n * number}\n" for n in range(40)]
        (folder / "texts" / f"{number}.py").write_text("\n".join(lines))


def text_data(folder: Path) -> dict[str, Any]:
    return {
        "kind": "files",
        "glob": str(folder / "texts/*.py"),
        "tokenizer": {"kind": "bpe", "vocab_size": 300},
        "validation_share": 0.2,
    }


def queued(folder: Path, spec: TrialSpec, digest: str) -> None:
    """Stores a trial that is not trained."""
    store = SweepStore(Settings(home=folder / ".evenload").store_url)
    (folder / ".evenload").mkdir(exist_ok=True)
    store.migrate()
    base = spec.model_dump(mode="json")
    sweep = SweepSpec(name=digest, base=base, axes={"train.seed": [spec.train.seed]})
    store.add_sweep(sweep, [(digest, spec)])


def test_a_trained_trial_loads_and_scores_as_recorded(
    here: Any, sweep: Sweep, tmp_path: Path
) -> None:
    write_corpus(tmp_path)
    base = sweep(model={"vocab_size": 300}, balancer={"kind": "sign", "step_size": 0.05})[
        "base"
    ] | {"data": text_data(tmp_path)}
    done = here("train", here.write("trial.yaml", base), "--json")
    assert done.code == 0, done.err
    (row,) = done.document["trials"]
    ended = here("export", row["digest"], "model", "--json")
    assert ended.code == 0, ended.err
    assert (ended.document["model_type"], ended.document["step"]) == ("glm4_moe", 24)
    assert set(ended.document["files"]) == FILES
    _loads_and_scores_as_recorded(tmp_path, row)
    _refuses_what_has_changed(here, tmp_path, row["digest"])


def _loads_and_scores_as_recorded(folder: Path, row: dict[str, Any]) -> None:
    spec = TrialSpec.model_validate(row["spec"])
    model = AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    assert model.model.layers[1].mlp.gate.e_score_correction_bias.abs().max() > 0.01

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    text = (folder / "texts/0.py").read_text()
    ids = tokenizer(text, return_tensors="pt", verbose=False)["input_ids"]
    assert ids.shape[1] < len(text) / 2
    assert tokenizer.decode(ids[0]) == text
    assert max(model.generate(ids[:, :8], max_new_tokens=5)[0].tolist()) < 300

    corpus = prepare(spec.data, Settings(home=folder / ".evenload").corpus_dir)
    token_BS = torch.from_numpy(
        even_windows(corpus.validation, spec.train.seq_len, spec.eval.tokens)
    )
    with torch.no_grad():
        logits_BSV = model(token_BS[:, :-1]).logits
    assert float(next_token_loss(logits_BSV, token_BS[:, 1:])) == pytest.approx(
        row["result"]["val_loss"], rel=1e-5
    )


def _refuses_what_has_changed(here: Any, folder: Path, digest: str) -> None:
    again = here("export", digest, "model")
    assert again.code == 2
    assert again.err.endswith("error: model is not empty; name a new folder\n")
    (folder / "texts/0.py").write_text("something = 'else'\n" * 500)
    changed = here("export", digest, "later")
    assert changed.code == 2
    assert "so its tokenizer differs; export the trial on a machine with" in changed.err
    for path in (folder / ".evenload/trials" / digest / "checkpoints").iterdir():
        path.unlink()
    gone = here("export", digest, "later")
    assert gone.code == 2
    assert "has no checkpoint; export it on the machine that trained it, or set" in gone.err
    assert not (folder / "later").exists()


@pytest.mark.slow
def test_a_trial_that_another_host_trained_comes_from_the_mirror(
    here: Any, sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its data was token ids, so it has no tokenizer."""
    monkeypatch.setenv("EVENLOAD_MIRROR_URL", f"memory://{uuid4()}")
    base = sweep(balancer={"kind": "none"})["base"]
    done = here("train", here.write("trial.yaml", base), "--json")
    (row,) = done.document["trials"]
    shutil.rmtree(tmp_path / ".evenload/trials" / row["digest"])
    ended = here("export", row["digest"], "model", "--json")
    assert ended.code == 0, ended.err
    assert "data.kind='synthetic' has only token ids: the folder has no tokenizer" in ended.err
    assert set(ended.document["files"]) == {name for name in FILES if "tokenizer" not in name}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert not model.model.layers[1].mlp.gate.e_score_correction_bias.any()


def test_a_trial_that_is_unknown_or_not_trained_is_refused(
    here: Any, sweep: Sweep, tmp_path: Path
) -> None:
    queued(tmp_path, TrialSpec.model_validate(sweep()["base"]), "waiting")
    unknown = here("export", "nothing", "model")
    assert (unknown.code, unknown.err) == (
        2,
        "error: digest='nothing' is unknown; `evenload sweep status` with --json shows digests\n",
    )
    waiting = here("export", "waiting", "model")
    assert waiting.code == 2
    assert waiting.err == (
        "error: trial waiting is queued, not trained; `evenload sweep status` shows its sweep, "
        "`evenload sweep run` trains it\n"
    )
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("kind", "refused"),
    [("random_router", True), ("sinkhorn", False), ("expert_choice", False), ("sign", False)],
)
def test_a_rule_is_exported_if_it_serves_by_score_plus_bias(
    here: Any, sweep: Sweep, tmp_path: Path, kind: str, refused: bool
) -> None:
    spec = TrialSpec.model_validate(sweep()["base"] | {"balancer": {"kind": kind}})
    queued(tmp_path, spec, "waiting")
    ended = here("export", "waiting", "model")
    assert ended.code == 2
    message = f"balancer.kind={kind!r} does not select experts by score plus bias"
    assert (message in ended.err) == refused
    assert ("is queued" in ended.err) == (not refused)
