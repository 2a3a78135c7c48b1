"""`python -m evenload.pipeline.records.mlflow_tables`: creates or upgrades MLflow's tables.

The URL of the database is in MLFLOW_BACKEND_STORE_URI. `mlflow db upgrade` wants it as an argument,
which every user of the machine can read.
"""

import evenload.pipeline.records.mlflow_environment  # noqa: F401 - before mlflow

# isort: split
import os

from mlflow.store.db import utils

from evenload.pipeline.addresses import shown_address


def main() -> None:
    """Raises: KeyError: the variable is missing"""
    url = os.environ["MLFLOW_BACKEND_STORE_URI"]
    engine = utils.create_sqlalchemy_engine_with_retry(url)
    if utils._is_empty_database(engine):
        utils._initialize_tables(engine)
    else:
        utils._upgrade_db(engine)
    print(f"MLflow's tables in {shown_address(url)} are up to date")


if __name__ == "__main__":
    main()
