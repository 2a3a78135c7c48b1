"""Keeps an attempt that has lost its trial from writing into the trial's folder."""

import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from evenload.pipeline.errors import LeaseLost
from evenload.pipeline.records.parquet_files import replace

OWNER = "owner.json"


class Fence:
    """The right of one attempt to write into a folder; without a folder everything may be written.

    Args:     confirm: returns if the attempt surely holds its lease, waits while that is not known,
                  and raises LeaseLost otherwise
    """

    def __init__(
        self,
        folder: Path | None = None,
        attempt: int = 0,
        worker: str = "",
        confirm: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder = folder
        self._attempt = attempt
        self._owner = {"attempt": attempt, "worker": worker}
        self._confirm = confirm

    def take(self) -> None:
        """Makes this attempt the owner of the folder.  Raises: LeaseLost"""
        self._confirm()
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            replace(self._folder / OWNER, json.dumps(self._owner).encode())

    def check(self) -> None:
        """Call it right before each write.  Raises: LeaseLost: another attempt owns the folder"""
        self._confirm()
        if self._folder is None:
            return
        owner = json.loads((self._folder / OWNER).read_bytes())
        if owner != self._owner:
            raise LeaseLost(
                f"{self._folder} belongs to attempt {owner['attempt']} of {owner['worker']}; "
                f"attempt {self._attempt} must stop"
            )

    @contextmanager
    def staged(self, path: Path) -> Iterator[Path]:
        """A new name beside `path`, which gets that name after the block if this attempt owns it.

        Whole files appear or none. Leftovers of earlier attempts, which were killed, are removed.
        """
        staging = path.with_name(f"{path.name}.{self._attempt:03}-{secrets.token_hex(3)}.tmp")
        try:
            yield staging
            self.check()  # a later attempt removes what this one has begun
            with staging.open("rb") as file:
                os.fsync(file.fileno())
            self.check()
            staging.rename(path)
        finally:
            staging.unlink(missing_ok=True)
        for leftover in path.parent.glob("*.[0-9]*-*.tmp"):
            if int(leftover.suffixes[-2][1:].partition("-")[0]) < self._attempt:
                leftover.unlink(missing_ok=True)


OPEN = Fence()
