-- Runs once, when the volume is empty. The database of POSTGRES_DB holds the sweeps.
CREATE DATABASE mlflow;
