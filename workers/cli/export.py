"""`evenload export`: writes a trained trial as a folder for transformers, lm-eval and vLLM."""

from pathlib import Path
from typing import Annotated

import typer

from evenload.pipeline.extras import require
from evenload.workers.cli.session import AsJson, load_settings, log, print_json


def export(
    digest: Annotated[
        str, typer.Argument(help="digest of a trial (`evenload sweep status --json`)")
    ],
    folder: Annotated[Path, typer.Argument(help="folder to create; it may exist if it is empty")],
    as_json: AsJson = False,
    home: Annotated[Path | None, typer.Option(help="folder with store and checkpoints")] = None,
) -> None:
    """Write a trained trial as a Hugging Face model: weights, learned biases, tokenizer, card.

    The folder loads with `AutoModelForCausalLM.from_pretrained`, without code of evenload: to
    generate, to evaluate with lm-eval, to serve. Its logits are those of the trial within rounding.
    Which model type it gets follows from the gate: glm4_moe (sigmoid: DeepSeek-V3's router with
    plain attention), ernie4_5_moe (softmax, renormalised) or qwen2_moe (softmax, not renormalised,
    a rule without learned bias). The learned bias is the type's own correction bias.

    Rules that look at the whole batch (sinkhorn, bip, expert_choice) are exported as they are
    evaluated: by the plain score, without a bias. A random router has no such form.
    """
    require("torch", "safetensors")
    from evenload.workers.cli.exported_folder import export_trial

    written = export_trial(digest, folder, load_settings(home))
    if as_json:
        print_json(written)
    else:
        log.print(f"wrote {folder}, a {written['model_type']} model", soft_wrap=True)
