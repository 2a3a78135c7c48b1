"""The callback under a real Hugging Face Trainer on the CPU."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import evenload
from evenload.pipeline.records.scores import read_recording
from evenload.workers.attach import AttachError
from infra.research.tiny_models import tiny_model

transformers = pytest.importorskip("transformers")

STEPS, BATCH, LENGTH, LAYERS = 6, 4, 12, 2


class Tokens(Dataset[dict[str, Tensor]]):
    """Sequences of different lengths, padded."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(place)
        token_S = torch.randint(3, 64, (LENGTH,), generator=generator)
        mask_S = (torch.arange(LENGTH) < 5 + place % 8).long()
        return {"input_ids": token_S, "attention_mask": mask_S, "labels": token_S}


def trainer(
    model: nn.Module, folder: Path, callback: Any, *, steps: int = STEPS, **options: Any
) -> Any:
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        use_cpu=True,
        report_to=[],
        logging_steps=1,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **options,
    )
    return transformers.Trainer(
        model=model,
        args=arguments,
        train_dataset=Tokens(),
        eval_dataset=Tokens(),
        callbacks=[callback],
    )


def tiny(name: str = "qwen3_moe") -> nn.Module:
    return tiny_model(name, num_hidden_layers=LAYERS)


def recorded() -> tuple[Any, list[Tensor]]:
    """A callback, and the counts of every step."""
    counts: list[Tensor] = []
    callback = evenload.TrainerCallback(
        added_bias="keep", recorder=lambda step, count_LE, bias_LE: counts.append(count_LE)
    )
    return callback, counts


def stacked(callback: Any) -> Tensor:
    return torch.stack(list(callback.balance.biases().values()))


def test_accumulation_moves_once_a_step_and_padding_and_evaluation_do_not_count(
    tmp_path: Path,
) -> None:
    callback, counts = recorded()
    run = trainer(
        tiny(), tmp_path, callback, gradient_accumulation_steps=2, eval_strategy="steps",
        eval_steps=2, save_strategy="no", per_device_eval_batch_size=8,
    )  # fmt: skip
    seen: list[int] = []
    run.data_collator = _noting(run.data_collator, seen)
    run.train()
    assert callback.balance.steps == run.state.global_step == STEPS
    assert len(seen) >= 2 * STEPS + 3 * 8, "evaluations ran"
    assert [int(count_LE.sum()) for count_LE in counts] == [
        int(2 * LAYERS * tokens) for tokens in _unpadded(run, STEPS, 2)
    ]
    assert stacked(callback).abs().sum() > 0
    logged = [entry for entry in run.state.log_history if "max_vio" in entry]
    assert len(logged) == STEPS
    assert logged[-1]["max_vio_worst"] >= logged[-1]["max_vio"] > 0


def test_scores_are_written_when_training_ends(tmp_path: Path) -> None:
    callback = evenload.TrainerCallback("none", record_scores=tmp_path / "scores.npz")
    trainer(tiny(), tmp_path, callback, save_strategy="no").train()
    found = read_recording(tmp_path / "scores.npz")
    assert (found.score_NLTE.shape[:2], found.unit) == ((STEPS, LAYERS), "probability")
    assert np.allclose(found.score_NLTE.sum(axis=-1), 1, atol=1e-6), "softmax over all experts"


def _noting(collate: Any, seen: list[int]) -> Any:
    def noting(rows: list[dict[str, Tensor]]) -> Any:
        seen.append(len(rows))
        return collate(rows)

    return noting


def _unpadded(run: Any, steps: int, pieces: int) -> list[int]:
    """Tokens of each step, from the Trainer's own order of the data."""
    batches = iter(run.get_train_dataloader())
    return [
        sum(int(next(batches)["attention_mask"].sum()) for _ in range(pieces)) for _ in range(steps)
    ]


@pytest.mark.parametrize("kind", ["qwen3_moe", "deepseek_v3"], ids=["added", "own"])
def test_a_resumed_run_equals_the_uninterrupted_one(kind: str, tmp_path: Path) -> None:
    """Given what the stock Trainer does not do: a model that was loaded from the checkpoint."""
    whole, _ = recorded()
    trainer(tiny(kind), tmp_path / "whole", whole, save_strategy="no").train()

    stopped, _ = recorded()
    trainer(tiny(kind), tmp_path / "cut", stopped, save_steps=3).train()
    checkpoint = tmp_path / "cut" / "checkpoint-3"
    assert (checkpoint / "evenload.pt").exists()

    resumed, _ = recorded()
    loaded = transformers.AutoModelForCausalLM.from_pretrained(checkpoint).train()
    run = trainer(loaded, tmp_path / "cut", resumed, save_strategy="no")
    # Under the file's names the Trainer cannot load experts, but they are there already.
    with pytest.warns(UserWarning, match=r"the Trainer left .*experts.*from_pretrained"):
        run.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.balance.steps == STEPS
    assert torch.equal(stacked(resumed), stacked(whole))


def test_the_stock_trainer_does_not_load_experts_and_that_is_said(tmp_path: Path) -> None:
    first, _ = recorded()
    trainer(tiny(), tmp_path, first, save_steps=3, steps=3).train()
    checkpoint = tmp_path / "checkpoint-3"
    second, _ = recorded()
    fresh = tiny_model("qwen3_moe", seed=1, num_hidden_layers=LAYERS)
    experts = fresh.get_parameter("model.layers.0.mlp.experts.down_proj").detach().clone()
    run = trainer(fresh, tmp_path, second, steps=4, save_strategy="no", learning_rate=0.0)
    with pytest.warns(UserWarning, match=r"4 tensors of the model as they were.*experts") as said:
        run.train(resume_from_checkpoint=str(checkpoint))
    assert len(said) == 1
    kept = fresh.get_parameter("model.layers.0.mlp.experts.down_proj").detach()
    assert torch.equal(kept, experts), "if this fails, the Trainer has learned to load experts"
    assert second.balance.steps == 4


def test_a_checkpoint_without_our_state_is_refused(tmp_path: Path) -> None:
    first, _ = recorded()
    trainer(tiny(), tmp_path, first, save_steps=2, steps=2).train()
    (tmp_path / "checkpoint-2" / "evenload.pt").unlink()
    second, _ = recorded()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(AttachError, match=r"goes on at step 2, but .*holds no evenload\.pt"):
            trainer(tiny(), tmp_path, second, steps=4).train(resume_from_checkpoint=True)


def test_the_best_models_biases_come_back_with_it(tmp_path: Path) -> None:
    callback, _ = recorded()
    run = trainer(
        tiny("deepseek_v3"), tmp_path, callback, save_strategy="steps", save_steps=2,
        eval_strategy="steps", eval_steps=2, load_best_model_at_end=True, learning_rate=0.5,
        greater_is_better=True,
    )  # fmt: skip
    with pytest.warns(UserWarning, match="load_best_model_at_end"):
        run.train()
    best = Path(run.state.best_model_checkpoint)
    assert best.name != f"checkpoint-{STEPS}", "it is not the last one"
    saved = torch.load(best / "evenload.pt", weights_only=True)["biases"]
    assert all(torch.equal(b, saved[name]) for name, b in callback.balance.biases().items())


def test_what_depends_on_the_length_of_training_learns_it_from_the_trainer(tmp_path: Path) -> None:
    callback = evenload.TrainerCallback(added_bias="fade", fade_over=0.5)
    trainer(tiny(), tmp_path, callback, save_strategy="no").train()
    assert not stacked(callback).any()
    assert callback.balance.options.total_steps == STEPS


def test_a_saved_model_of_a_family_with_a_bias_needs_nothing_of_ours(tmp_path: Path) -> None:
    callback, _ = recorded()
    run = trainer(tiny("deepseek_v3"), tmp_path, callback, save_strategy="no")
    run.train()
    run.save_model(str(tmp_path / "final"))
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    token_BS = torch.randint(64, (2, 9))
    with torch.no_grad():
        expected = run.model.eval()(input_ids=token_BS).logits
        assert torch.equal(plain(input_ids=token_BS).logits, expected)
    gate = plain.model.layers[1].mlp.gate
    assert gate.e_score_correction_bias.dtype == torch.float32
    assert torch.equal(gate.e_score_correction_bias, stacked(callback)[0])
    assert json.loads((tmp_path / "final" / "config.json").read_text())["architectures"] == [
        "DeepseekV3ForCausalLM"
    ]
