from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evenload.pipeline.sweep.selection import select_by_loss
from infra.research import answer_characteristics
from infra.research.answer_characteristics import RESULT, Cell, cells, faults, page

SWEEPS = 30


@pytest.fixture(scope="module")
def found() -> list[Cell]:
    return list(cells(SWEEPS, (2, 7), (1, 3, 6)))


def test_no_kind_of_statement_is_wrong_too_often(found: list[Cell]) -> None:
    assert faults(found) == []


def test_one_seed_claims_nothing_and_six_seeds_do(found: list[Cell]) -> None:
    one_stage = [cell for cell in found if cell.design == "one stage" and cell.noise != "holes"]
    assert all(cell.claims == 0 for cell in one_stage if cell.seeds == 1)
    assert all(cell.claims > 0.5 for cell in one_stage if cell.seeds == 6)


def test_naming_by_means_alone_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Naming whatever has a mean within the margin errs where balance is bought with loss."""

    def by_means(loss_SN: Any, margin: float, alpha: float) -> Any:
        selection = select_by_loss(loss_SN, margin, alpha)
        mean_S = np.nanmean(loss_SN, axis=1)
        return selection._replace(passes_S=mean_S <= mean_S.min() + margin)

    monkeypatch.setattr(answer_characteristics, "select_by_loss", by_means)
    wrong = [cell.wrong for cell in cells(SWEEPS, (7,), (3,)) if cell.truth == "worst"]
    assert max(wrong) > 0.5
    assert any("wrong is" in problem for problem in faults(cells(SWEEPS, (7,), (3,))))


def test_the_page_has_every_cell_of_the_price(found: list[Cell]) -> None:
    text = page(found)
    assert "| one stage | 7 | 6 | " in text
    assert f"| two stages | 7 | 1, then 6 x {answer_characteristics.FRESH} | " in text
    assert "Bounds: all hold." in text


def test_the_recorded_page_holds_all_bounds() -> None:
    assert "Bounds: all hold." in RESULT.read_text(encoding="utf-8")
