"""Settings: flags override EVENLOAD_* environment variables, which override these defaults.

The defaults need no server: SQLite, MLflow on SQLite, and files, all under `./.evenload/`.
"""

import errno
import math
import os
import re
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pydantic import PositiveFloat, PositiveInt, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from evenload.pipeline.addresses import shown_address
from evenload.pipeline.errors import SpecError

DIGEST = re.compile(r"[A-Za-z0-9_-]+")


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="EVENLOAD_",
        env_ignore_empty=True,
        frozen=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )

    home: Path = Path(".evenload")
    """Folder with the store, MLflow's runs, corpora, checkpoints and records."""
    database_url: str | None = None
    """The store; null: SQLite in the home. PostgreSQL: postgresql+psycopg://..."""
    reader_url: str | None = None
    """The same store for a role that only reads, for pages without controls; null: database_url."""
    tracking_uri: str | None = None
    """MLflow's server; null: SQLite in the home."""
    artifact_root: str | None = None
    """Artifact store of new experiments; null: the home, or the choice of MLflow's server."""
    mirror_url: str | None = None
    """Object store (an fsspec URL) for trial folders, for hosts that share no disk."""
    mlflow_ui_url: str = "http://127.0.0.1:5000"
    """Address of MLflow's pages, as viewers of the dashboard reach it."""
    ray_dashboard_url: str | None = None
    """Address of Ray's dashboard, as viewers of the dashboard reach it."""
    lease_seconds: PositiveFloat = 20.0
    """A worker that is silent for so long loses its trial."""
    heartbeat_seconds: PositiveFloat = 4.0
    """Time between two heartbeats of a worker; at most half of a lease."""
    train_slots: PositiveInt | None = None
    """Trials trained at once; null: one per core or GPU."""
    cluster_cores: PositiveInt | None = None
    """Cores that an autoscaled Ray cluster can grow to; null: those of the nodes seen so far."""
    cluster_gpus: PositiveInt | None = None
    """GPUs that an autoscaled Ray cluster can grow to; null: those of the nodes seen so far."""
    max_priority: int = 100
    """`evenload serve` lowers the priority of sweeps that ask for more."""
    eval_slots: PositiveInt = 1
    """Trials evaluated at once."""
    data_root: Path | None = None
    """The only folder below which specs may read files; null: anywhere."""
    check_identity: bool = True
    """Whether workers refuse trials that were listed with other data or other code than theirs."""
    prepare_seconds: PositiveFloat = 3600.0
    """How long `evenload serve` lets one sweep read its data and list its trials."""
    prepare_gib: PositiveFloat | None = None
    """Memory that this may take; null: half of the machine's."""
    dashboard_controls: bool = False
    """Whether everyone who reaches the dashboard, or `evenload mcp --controls`, may start and steer
    sweeps."""
    mcp_token: SecretStr | None = None
    """What clients of `evenload mcp --http` must know: at least 16 characters."""
    dashboard_login: bool = False
    """Whether viewers must log in with OpenID Connect, as `[auth]` of streamlit's secrets says."""
    operators: str = ""
    """Mail addresses, separated by commas, that may use the controls after a login; empty: all."""
    allowed_hosts: str = ""
    """Names, separated by commas, by which browsers reach dashboard and MLflow beside localhost."""
    alert_url: SecretStr | None = None
    """Webhook to which `evenload serve` and `sweep run` send alarms; it is kept like a password."""
    tiles_file: Path | None = None
    """Tile sizes of the Triton kernels, as `evenload tune` saves them; null: the built-in table."""

    @field_validator("heartbeat_seconds")
    @classmethod
    def _renews_in_time(cls, heartbeat: float, info: ValidationInfo) -> float:
        lease = info.data.get("lease_seconds", math.inf)
        if 2 * heartbeat > lease:
            raise ValueError(
                f"{heartbeat:g} s between heartbeats is too long for a lease of {lease:g} s; set "
                f"it to at most {lease / 2:g}, or lease_seconds to at least {2 * heartbeat:g}"
            )
        return heartbeat

    @field_validator("alert_url")
    @classmethod
    def _is_web_address(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not re.match(r"https?://[^/\s?#]+\S*$", url.get_secret_value()):
            raise ValueError("must be an address that begins with https:// or http://")
        return url

    @property
    def root(self) -> Path:
        """The home as an absolute path, because Ray workers run in another working directory."""
        return self.home.expanduser().resolve()

    def make_home(self, to_write: bool = False) -> None:
        """Creates the home if needed, for its user alone. New files get the rights of the home.

        Args:     to_write: require write access
        Raises:   SpecError
        """
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.umask(0o077 & ~self.root.stat().st_mode)
        except FileExistsError:  # a file has that name
            raise self._unusable(errno.ENOTDIR) from None
        except OSError as error:
            raise self._unusable(error.errno) from None
        if to_write and not os.access(self.root, os.W_OK):
            raise self._unusable(errno.EACCES)

    def _unusable(self, reason: int | None) -> SpecError:
        return SpecError(
            f"home={str(self.home)!r}: {os.strerror(reason or errno.EIO)}; set EVENLOAD_HOME or "
            "--home to a folder that can be written"
        )

    def host_names(self, address: str = "127.0.0.1") -> list[str]:
        """The names that a server on this address answers to, against rebound names (DNS)."""
        named = [name.strip() for name in self.allowed_hosts.split(",")]
        bound = [] if address in ("0.0.0.0", "::", "") else [address]
        return list(dict.fromkeys(["127.0.0.1", "localhost", *bound, *filter(None, named)]))

    @property
    def store_url(self) -> str:
        return self.database_url or self._in_home("evenload.db")

    @property
    def shown_store_url(self) -> str:
        """The store as the dashboard opens it: without controls for a role that only reads."""
        return (not self.dashboard_controls and self.reader_url) or self.store_url

    def _in_home(self, name: str) -> str:
        """The address of an SQLite file. Signs that mean something in an address are encoded."""
        path = str(self.root / name).replace("%", "%25").replace("?", "%3F")
        return f"sqlite:///{path}"

    @property
    def has_store(self) -> bool:
        """Whether the store in the home exists.  Raises: SpecError: the home is no folder"""
        try:
            return (self.root / "evenload.db").stat().st_size > 0
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._unusable(error.errno) from None

    @property
    def mlflow_uri(self) -> str:
        return self.tracking_uri or self._in_home("mlflow.db")

    @property
    def mlflow_artifacts(self) -> str | None:
        """The artifact root for new experiments; None: the tracking server decides."""
        if self.artifact_root is not None or self.tracking_uri is not None:
            return self.artifact_root
        return (self.root / "artifacts").as_uri()

    def trial_dir(self, digest: str) -> Path:
        """The folder of a trial's checkpoints, logs and shards.

        Raises:   SpecError: `digest` is not a digest; it might be a path out of the home
        """
        if not DIGEST.fullmatch(digest):
            remedy = "`evenload sweep status` with --json shows digests"
            raise SpecError(f"digest={digest!r} is not a digest; {remedy}")
        return self.root / "trials" / digest

    def uri_of(self, path: Path) -> str:
        """The URI of a file below `root` by which every host finds it. It has no credentials."""
        if self.mirror_url is None:
            return path.as_uri()
        mirror = shown_address(self.mirror_url)
        return f"{mirror.rstrip('/')}/{path.relative_to(self.root).as_posix()}"

    def path_of(self, uri: str) -> Path:
        """The local path of a file whose URI came from `uri_of`, here or on another host."""
        if self.mirror_url is not None:
            mirror = shown_address(self.mirror_url)
            if uri.startswith(mirror):
                return self.root / uri.removeprefix(mirror).lstrip("/")
        return Path(url2pathname(urlsplit(uri).path))

    @property
    def corpus_dir(self) -> Path:
        return self.root / "corpora"


def current_settings() -> Settings:
    """`Settings()`, which takes 10 ms, read again only if the environment has changed."""
    return _read(tuple((name, value) for name, value in os.environ.items() if _is_ours(name)))


def _is_ours(name: str) -> bool:
    return name.upper().startswith("EVENLOAD_")


@lru_cache(maxsize=4)
def _read(environment: tuple[tuple[str, str], ...]) -> Settings:
    return Settings()
