from __future__ import annotations

from tests.pipeline.store.conftest import postgres_url  # noqa: F401  a fixture
