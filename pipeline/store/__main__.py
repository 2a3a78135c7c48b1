"""`python -m evenload.pipeline.store`: creates or upgrades the tables of the store."""

import sys

from evenload.pipeline.addresses import shown_address
from evenload.pipeline.errors import SpecError
from evenload.pipeline.settings import Settings
from evenload.pipeline.store.schema import REVISIONS
from evenload.pipeline.store.sweep_store import SweepStore


def main() -> None:
    settings = Settings()
    try:
        settings.make_home()
        SweepStore(settings.store_url).migrate()
    except SpecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{shown_address(settings.store_url)} is at revision {REVISIONS[-1]}")


if __name__ == "__main__":
    main()
