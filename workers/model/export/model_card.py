"""Describes an exported folder: writes README.md for people and evenload.json for programs."""

import json
from importlib.metadata import version
from typing import Any, NamedTuple

import yaml

from evenload.pipeline.figures.metrics import METRICS
from evenload.pipeline.spec.trial import TrialSpec

FIGURES = ("val_loss", "val_bits_per_byte", "max_vio_global", "max_vio_global_floor", "max_vio")


class Trained(NamedTuple):
    digest: str
    spec: TrialSpec
    step: int  # of the exported checkpoint
    result: dict[str, float]
    attempts: list[dict[str, str]]  # versions and devices of each attempt


def evenload_json(trained: Trained, model_type: str) -> str:
    document: dict[str, Any] = {
        "digest": trained.digest,
        "step": trained.step,
        "model_type": model_type,
        "versions": {name: version(name) for name in ("evenload", "torch", "safetensors")},
        "spec": trained.spec.model_dump(mode="json"),
        "result": trained.result,
        "attempts": trained.attempts,
    }
    return json.dumps(document, indent=2) + "\n"


def model_card(trained: Trained, model_type: str, has_tokenizer: bool) -> str:
    """Markdown with front matter for model hubs."""
    front = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["mixture-of-experts", "evenload", model_type],
    }
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# evenload trial {trained.digest}",
        _origin(trained),
        _figures(trained.result),
        f"## Use\n\n{_use(model_type, has_tokenizer)}",
        "`evenload.json` has the complete spec, all figures and the versions that computed them.",
    ]
    return "\n\n".join(parts) + "\n"


def _origin(trained: Trained) -> str:
    model, train = trained.spec.own_model, trained.spec.train
    sentences = [
        f"A mixture-of-experts language model: {model.num_moe_layers} of its "
        f"{model.num_layers} layers have {model.num_experts} experts, of which {model.top_k} "
        "process each token.",
        f"evenload trained it for {trained.step} of {train.steps} steps on "
        f"`{trained.spec.data.kind}` under the balancing rule `{trained.spec.balancer.label}`.",
    ]
    if trained.spec.balancer.rule.leaks_future:
        sentences.append(
            "In training this rule looked at the whole batch. The exported model selects "
            "experts by the plain score, as the evaluation did."
        )
    return " ".join(sentences)


def _figures(result: dict[str, float]) -> str:
    rows = [
        f"| {metric.title}: {metric.meaning} | {value} | {metric.unit} |"
        for metric in (METRICS[name] for name in FIGURES)
        for value in [metric.shown(result.get(metric.name))]
    ]
    return "\n".join(["| figure | value | unit |", "|---|---|---|", *rows])


def _use(model_type: str, has_tokenizer: bool) -> str:
    if not has_tokenizer:
        return (
            f"The model has the type `{model_type}` of transformers. Its training data was token "
            "ids, so the folder has no tokenizer: `AutoModelForCausalLM.from_pretrained` loads "
            "the model."
        )
    return f"""The model has the type `{model_type}` of transformers, so programs that support \
that type can serve it.

```python
from transformers import pipeline

generate = pipeline("text-generation", model=".")
print(generate("def main(", max_new_tokens=50)[0]["generated_text"])
```"""
