"""Makes MLflow quiet, quick to give up and silent about its users. Imported before mlflow itself.

It is a file of its own, because other files of this folder are imported into other people's
training, whose MLflow is theirs to configure.
"""

import os

# mlflow reads these when it is imported. It then stays quiet, sends no telemetry, looks for no git
# binary and tries every request once and briefly, because the projection does the retrying.
ENVIRONMENT = {
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
