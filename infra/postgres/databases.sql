-- Makes both databases and their roles, in an empty volume or once in an older one (see infra/README.md,
-- "Upgrade"). POSTGRES_USER is a superuser; no service connects as it.
--
--   evenload_owner    creates and upgrades the tables of the sweeps
--   evenload_writer   reads and writes their rows: workers, coordinator, dashboard with controls
--   evenload_reader   only reads them: dashboard, exporter
--   mlflow            owns MLflow's database
\getenv owner POSTGRES_OWNER_PASSWORD
\getenv writer POSTGRES_WRITER_PASSWORD
\getenv reader POSTGRES_READER_PASSWORD
\getenv mlflow POSTGRES_MLFLOW_PASSWORD
CREATE ROLE evenload_owner LOGIN PASSWORD :'owner';
CREATE ROLE evenload_writer LOGIN PASSWORD :'writer';
CREATE ROLE evenload_reader LOGIN PASSWORD :'reader';
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow';
ALTER ROLE evenload_reader SET default_transaction_read_only = on;
SELECT 'CREATE DATABASE mlflow'
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'mlflow') \gexec

ALTER DATABASE evenload OWNER TO evenload_owner;
ALTER DATABASE mlflow OWNER TO mlflow;
REVOKE ALL ON DATABASE evenload, mlflow FROM PUBLIC;
GRANT CONNECT ON DATABASE evenload TO evenload_writer, evenload_reader;

\connect evenload
-- The tables of an older volume belong to the superuser.
SELECT format('ALTER TABLE public.%I OWNER TO evenload_owner', tablename)
  FROM pg_tables WHERE schemaname = 'public' \gexec
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO evenload_writer;
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO evenload_writer;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO evenload_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE evenload_owner IN SCHEMA public
  GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO evenload_writer;
ALTER DEFAULT PRIVILEGES FOR ROLE evenload_owner IN SCHEMA public
  GRANT USAGE, SELECT ON SEQUENCES TO evenload_writer;
ALTER DEFAULT PRIVILEGES FOR ROLE evenload_owner IN SCHEMA public
  GRANT SELECT ON TABLES TO evenload_reader;

\connect mlflow
SELECT format('ALTER TABLE public.%I OWNER TO mlflow', tablename)
  FROM pg_tables WHERE schemaname = 'public' \gexec
