"""`python -m evenload.pipeline.store`: creates or upgrades the tables of the store."""

from __future__ import annotations

from evenload.pipeline.settings import Settings, without_password
from evenload.pipeline.store.schema import REVISIONS
from evenload.pipeline.store.sweep_store import SweepStore


def main() -> None:
    """Raises: StoreUnavailable; SpecError: the schema is newer than this evenload"""
    settings = Settings()
    settings.root.mkdir(parents=True, exist_ok=True)
    SweepStore(settings.store_url).migrate()
    print(f"{without_password(settings.store_url)} is at revision {REVISIONS[-1]}")


if __name__ == "__main__":
    main()
