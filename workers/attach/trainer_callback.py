"""Balancing as a callback of the Hugging Face Trainer. The one file that needs transformers."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from evenload.pipeline.spec.balancers import BalancerSpec
from evenload.workers.attach import attach
from evenload.workers.attach.errors import AttachError
from evenload.workers.attach.saving import FILE
from evenload.workers.attach.session import Balance

try:
    import transformers
except ImportError as error:
    raise AttachError(
        "TrainerCallback needs transformers: pip install 'evenload[huggingface]'"
    ) from error

NOT_YET = 2**62
TOLD = ("loss", "learning_rate", "grad_norm")  # of what the Trainer logs, for the record
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


class TrainerCallback(transformers.TrainerCallback):
    """Attaches to the Trainer's model and moves its biases once per optimizer step.

        Trainer(model=model, ..., callbacks=[evenload.TrainerCallback("self_tuned")])

    It writes `evenload.pt` into every checkpoint and reads it when the Trainer resumes. The model
    stays attached after training, so that it is evaluated and saved with its biases.

    Args:
        rule, options: as `attach` takes them; `total_steps` is the Trainer's own
        resume:        where the state of a run that goes on is, if not in the Trainer's checkpoint
    """

    def __init__(
        self,
        rule: str | Mapping[str, Any] | BalancerSpec = "self_tuned",
        *,
        resume: str | Path | None = None,
        **options: Any,
    ) -> None:
        self.balance: Balance | None = None
        self._rule, self._options, self._resume = rule, options, resume
        self._by_hand = False  # the optimizer has no hooks

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Before the model is wrapped or sharded."""
        self._attach(kwargs["model"])

    def _attach(self, model: nn.Module) -> Balance:
        if self.balance is None:
            # The Trainer knows the number of steps when training begins.
            self.balance = attach(model, self._rule, **{"total_steps": NOT_YET} | self._options)
        return self.balance

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        balance = self._attach(kwargs["model"])
        balance.options = balance.options._replace(total_steps=state.max_steps)
        try:
            balance.watch(kwargs["optimizer"])
        except AttachError:
            self._by_hand = True
        balance.steps = state.global_step
        if state.global_step > 0:
            self._go_on(balance, kwargs["model"], args, state)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._by_hand and self.balance is not None:
            self.balance.step()

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Adds MaxVio, mean and worst layer of the last step, to what the Trainer logs."""
        violations = {} if self.balance is None else self.balance.max_vio()
        logs = kwargs.get("logs", {})
        if self.balance is not None and "loss" in logs:
            self.balance.log(**{name: logs[name] for name in TOLD if name in logs})
        if violations and "loss" in logs:
            mean, worst = sum(violations.values()) / len(violations), max(violations.values())
            figures = {"max_vio": round(mean, 4), "max_vio_worst": round(worst, 4)}
            kwargs["logs"].update(figures)
            state.log_history[-1].update(figures)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.balance is not None and state.is_world_process_zero:
            self.balance.save(_checkpoint(args, state))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.balance is not None:
            self.balance.finish()
        best = state.best_model_checkpoint
        if self.balance is not None and args.load_best_model_at_end and best is not None:
            _check_weights(kwargs["model"], Path(best), "load_best_model_at_end")
            self.balance.load(best)

    def _go_on(self, balance: Balance, model: nn.Module, args: Any, state: Any) -> None:
        given = args.resume_from_checkpoint
        place = Path(given) if isinstance(given, str) else _checkpoint(args, state)
        _check_weights(model, place, "resume_from_checkpoint")
        source = self._resume or place
        if not (Path(source) / FILE).exists() and not Path(source).is_file():
            raise AttachError(
                f"training goes on at step {state.global_step}, but {source} holds no {FILE}: pass "
                "TrainerCallback(resume=FOLDER) with the checkpoint that it goes on from"
            )
        balance.load(source)


def _checkpoint(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _check_weights(model: nn.Module, checkpoint: Path, what: str) -> None:
    """Says which of the model's tensors the Trainer did not find in a checkpoint.

    It loads by the names in the file, where transformers stores experts under other names than the
    modules have, and takes what is missing for unimportant (measured with 5.23.0).
    """
    stored = _stored_names(checkpoint)
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    missing = [name for name in model.state_dict() if name not in stored and name not in tied]
    if stored and missing:
        warnings.warn(
            f"{what}: the Trainer left {len(missing)} tensors of the model as they were, such as "
            f"{missing[0]}, because {checkpoint} stores them under other names. The model is "
            f"right only if it was built with from_pretrained({str(checkpoint)!r}); the biases are "
            "restored",
            stacklevel=4,
        )


def _stored_names(checkpoint: Path) -> set[str]:
    """Names in the weight files that the Trainer loads itself; none where it uses other ones."""
    single, index = (checkpoint / name for name in WEIGHTS)
    if single.exists():
        from safetensors import safe_open

        with safe_open(single, framework="pt") as weights:
            return set(weights.keys())
    return set(json.loads(index.read_text())["weight_map"]) if index.exists() else set()
