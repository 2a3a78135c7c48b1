"""Where measurements go: shards on disk, runs in MLflow, and what others recorded."""
