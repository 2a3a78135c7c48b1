from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evenload.pipeline.sweep.selection import select_by_loss
from infra.research import answer_characteristics
from infra.research.answer_characteristics import (
    BLOCK,
    RESULT,
    ROUNDS,
    Cell,
    cell,
    cells,
    faults,
    page,
)

SWEEPS = 20


@pytest.fixture(scope="module")
def found() -> list[Cell]:
    return list(cells(SWEEPS, (2, 7), (1, 3, 6)))


def test_no_kind_of_statement_is_wrong_too_often(found: list[Cell]) -> None:
    assert faults(found) == []


def test_one_seed_claims_nothing_and_six_seeds_do(found: list[Cell]) -> None:
    one_stage = [one for one in found if one.design == "one stage" and one.noise == "equal noise"]
    assert all(one.claims == 0 for one in one_stage if one.seeds == 1)
    assert all(one.claims > 0.4 for one in one_stage if one.seeds == 6)


def test_naming_by_means_alone_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Naming whatever has a mean within the margin errs where balance is bought with loss."""

    def by_means(loss_SN: Any, margin: float, alpha: float) -> Any:
        selection = select_by_loss(loss_SN, margin, alpha)
        mean_S = np.nanmean(loss_SN, axis=1)
        return selection._replace(passes_S=mean_S <= mean_S.min() + margin)

    monkeypatch.setattr(answer_characteristics, "select_by_loss", by_means)
    found = [cell(design, "worst", "equal noise", 7, 3, SWEEPS) for design in ("one stage", "race")]
    assert min(one.wrong for one in found) > 0.5
    assert any("wrong is" in problem for problem in faults(found))


def test_the_page_has_every_cell_of_the_price(found: list[Cell]) -> None:
    text = page(found)
    assert "| one stage | 7 | 6 | " in text
    assert f"| two stages | 7 | 1, then 6 x {answer_characteristics.FRESH} | " in text
    assert f"| race | 7 | {BLOCK} to {BLOCK * ROUNDS} | " in text
    assert "Bounds: all hold." in text


def test_the_recorded_page_holds_all_bounds() -> None:
    assert "Bounds: all hold." in RESULT.read_text(encoding="utf-8")
