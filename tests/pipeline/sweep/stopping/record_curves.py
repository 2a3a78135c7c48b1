"""Writes the learning curves that the tests of stopping replay. Takes 3 minutes on two cores:

evenload sweep run tests/pipeline/sweep/stopping/recorded.yaml
python tests/pipeline/sweep/stopping/record_curves.py SWEEP_ID > recorded_curves.json
"""

from __future__ import annotations

import json
import sys

from evenload.pipeline.client import Client


def main() -> None:
    client = Client()
    sweep_id = sys.argv[1]
    curves = client.store.curves(sweep_id)
    trials = [
        {
            "label": trial.label,
            "learning_rate": trial.spec["train"]["learning_rate"],
            "seed": trial.spec["train"]["seed"],
            "val_loss": [round(point.val_loss, 5) for point in curves[trial.digest]],
        }
        for trial in client.trials(sweep_id)
    ]
    first = next(iter(curves.values()))
    document = {"sweep_id": sweep_id, "steps": [point.step for point in first], "trials": trials}
    print(json.dumps(document, separators=(",", ":")).replace('{"label"', '\n{"label"'))


if __name__ == "__main__":
    main()
