"""`evenload tune`: finds tile sizes for the Triton kernels on this GPU."""

from pathlib import Path
from typing import Annotated

import typer

from evenload.pipeline.errors import SpecError
from evenload.workers.cli.session import AsJson, log, out, print_json
from evenload.workers.kernels.backends import resolve_backend


def tune(
    d_model: Annotated[int, typer.Option(min=1, help="width of the model")] = 2048,
    d_expert: Annotated[int, typer.Option(min=1, help="width of one expert")] = 1408,
    num_experts: Annotated[int, typer.Option(min=1, help="experts of the layer")] = 64,
    top_k: Annotated[int, typer.Option(min=1, help="experts that a token is sent to")] = 6,
    save_to: Annotated[
        Path | None, typer.Option("--save", help="file to write, for EVENLOAD_TILES_FILE")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the fastest tile sizes of the Triton kernels for a layer on this GPU."""
    import torch

    from evenload.workers.tuning.tile_search import Layer, save
    from evenload.workers.tuning.tile_search import tune as tune_tiles

    if not torch.cuda.is_available():
        raise SpecError("tune: no CUDA device here; tiles are measured on the GPU that runs them")
    resolve_backend("triton", "cuda")
    layer = Layer(d_model, d_expert, num_experts, top_k)
    table = tune_tiles(layer, torch.device("cuda"), torch.bfloat16, log.print)
    if save_to is not None:
        save(table, save_to)
        log.print(f"saved; use it with EVENLOAD_TILES_FILE={save_to}")
    if as_json or save_to is None:
        print_json(table)
    else:
        out.print(f"{len(table)} device in {save_to}")
