"""One training step of a whole model, for our model and for rivals with the same dimensions.

The rivals are Hugging Face transformers' versions of DeepSeek-V3's mixture (sigmoid gate, selection
bias, shared experts): GLM-4.5 with plain attention and exactly our products, and DeepSeek-V3 with
latent attention whose rank gives about as many weights. Both use our loss, clipping and optimizer.
Only our model moves its biases. Compiled arms compile the model with torch.compile's defaults.
Letters: B sequences, S tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import cycle
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from evenload.pipeline.spec.own_model import ModelSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.model.contract import next_token_loss
from evenload.workers.training.memory import keep_freed_memory
from evenload.workers.training.setup import adamw, assemble, trainable_weights
from evenload.workers.training.step import train_step

Step = Callable[[], object]
OURS = "evenload"
OURS_COMPILED = "evenload, compiled"
GLM = "transformers GLM-4.5"
EXPERTS = ("grouped_mm", "eager")  # batched_mm copies weights per token, 7x slower on a CPU
NUM_BATCHES = 4
MISSING = "pip install transformers"


class Arm(NamedTuple):
    step: Step
    parameters: int
    experts: str  # implementation of the experts


def ours(spec: TrialSpec) -> Arm:
    assembly = assemble(spec)
    trainee, state, batches = assembly.trainee, assembly.state, _batches(spec)

    def step() -> None:
        nonlocal state
        _, state = train_step(trainee, state, [next(batches)], progress=0.1)

    return Arm(step, _count(trainee.model), spec.runtime.backend)


def arm_builders(spec: TrialSpec, compiled: bool) -> dict[str, list[Callable[[], Arm]]]:
    """Functions that build each arm; a rival has one per implementation of its experts.

    Args:     compiled: include arms with torch.compile, which take half a minute to start
    """
    tree = spec.model_dump(mode="json")
    found: dict[str, list[Callable[[], Arm]]] = {OURS: [partial(_build, ours, tree)]}
    if compiled:
        compiled_tree = tree | {"train": tree["train"] | {"compile": True}}
        found[OURS_COMPILED] = [partial(_build, ours, compiled_tree)]
    if find_spec("transformers") is None:
        return found
    for name, rival in RIVALS.items():
        if compiled or not rival.compiled:
            builders = [partial(_rival, rival=rival, experts=experts) for experts in EXPERTS]
            found[name] = [partial(_build, build, tree) for build in builders]
    return found


def _build(build: Callable[[TrialSpec], Arm], tree: dict[str, Any]) -> Arm:
    """Builds an arm from a spec as JSON, because only that can be sent to another process."""
    return build(TrialSpec.model_validate(tree))


def _rival(spec: TrialSpec, rival: Rival, experts: str) -> Arm:
    transformers = import_module("transformers")
    transformers.utils.logging.set_verbosity_error()
    if rival.keeps_memory:
        keep_freed_memory()
    torch.set_num_threads(spec.runtime.threads)
    torch.manual_seed(spec.train.seed)
    config_class = getattr(transformers, f"{rival.family}Config")
    model = getattr(transformers, f"{rival.family}ForCausalLM")._from_config(
        config_class(**_shared_fields(spec), **rival.attention(spec.model)),
        attn_implementation="sdpa",
        experts_implementation=experts,
    )
    model.train()
    if rival.compiled:
        model.compile()
    optimizer, batches = adamw(spec.train, trainable_weights(model)), _batches(spec)

    def step() -> None:
        token_BS = next(batches)
        loss = next_token_loss(model(input_ids=token_BS[:, :-1]).logits, token_BS[:, 1:])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), spec.train.grad_clip)
        optimizer.step()

    return Arm(step, _count(model), experts)


def _shared_fields(spec: TrialSpec) -> dict[str, Any]:
    model = spec.model
    return {
        "vocab_size": model.vocab_size,
        "hidden_size": model.d_model,
        "intermediate_size": model.d_dense,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.num_heads,
        "max_position_embeddings": spec.train.seq_len,
        "rms_norm_eps": model.norm_eps,
        "moe_intermediate_size": model.d_expert,
        "num_experts_per_tok": model.top_k,
        "n_shared_experts": model.num_shared,
        "n_routed_experts": model.num_experts,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": model.num_dense_layers,
        "norm_topk_prob": model.renormalise,
        "initializer_range": model.init_std,
        "use_cache": False,
    }


def _plain_attention(model: ModelSpec) -> dict[str, Any]:
    return {"head_dim": model.d_model // model.num_heads, "partial_rotary_factor": 1.0}


def _latent_attention(model: ModelSpec) -> dict[str, Any]:
    width = model.d_model // model.num_heads
    return {
        "q_lora_rank": None,
        "kv_lora_rank": model.d_model // 2,
        "qk_rope_head_dim": width // 2,
        "qk_nope_head_dim": width // 2,
        "v_head_dim": width,
    }


class Rival(NamedTuple):
    family: str  # prefix of the class names in transformers
    attention: Callable[[ModelSpec], dict[str, Any]]
    keeps_memory: bool = False  # like evenload, but unlike users of transformers
    compiled: bool = False


RIVALS = {
    GLM: Rival("Glm4Moe", _plain_attention),
    "transformers DeepSeek-V3": Rival("DeepseekV3", _latent_attention),
    f"{GLM}, freed memory kept": Rival("Glm4Moe", _plain_attention, keeps_memory=True),
    f"{GLM}, compiled": Rival("Glm4Moe", _plain_attention, compiled=True),
}


def _batches(spec: TrialSpec) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (spec.train.batch_sequences, spec.train.seq_len + 1)
    return cycle(
        torch.randint(0, spec.model.vocab_size, shape, generator=generator)
        for _ in range(NUM_BATCHES)
    )


def _count(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())
