-- Runs once, when the volume is empty. The sweeps are in the database POSTGRES_DB.
CREATE DATABASE mlflow;
