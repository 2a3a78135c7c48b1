"""`evenload gc`: what no sweep needs any more."""

from pathlib import Path
from typing import Annotated

import typer

from evenload.pipeline.figures.wording import counted, scaled
from evenload.pipeline.sweep.removal import find_orphans, remove_orphans
from evenload.workers.cli.session import AsJson, load_settings, log, open_store, out, print_json


def gc(
    delete: Annotated[bool, typer.Option("--delete", help="remove them, not only list")] = False,
    as_json: AsJson = False,
    home: Annotated[Path | None, typer.Option(help="folder with store and shards")] = None,
) -> None:
    """List trials that no sweep lists, and folders that no trial owns; with --delete remove them.

    Trials that a worker holds or that another trial extends are left alone. What the mirror and
    MLflow have of a trial goes with it.
    """
    settings = load_settings(home)
    store = open_store(settings)
    found = find_orphans(store, settings)
    if delete:
        found = remove_orphans(store, settings, found)
    if as_json:
        print_json({"deleted": delete, "orphans": found})
        return
    for orphan in found:
        parts = [orphan.digest, orphan.why, scaled(orphan.bytes, "B")]
        parts += ["in the mirror"] if orphan.is_mirrored else []
        parts += [f"MLflow run {orphan.run_id}"] if orphan.run_id else []
        out.print("  ".join(parts), soft_wrap=True)
    total = f"{counted(len(found), 'orphan')}, {scaled(sum(each.bytes for each in found), 'B')}"
    log.print(f"{total} {'deleted' if delete else 'found; --delete removes them'}")
