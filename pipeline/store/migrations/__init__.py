"""The history of the schema, one file a step. Steps go forward only."""
