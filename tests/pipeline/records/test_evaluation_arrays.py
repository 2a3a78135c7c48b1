from __future__ import annotations

from pathlib import Path

import numpy as np

from evenload.pipeline.figures.evaluation import Detail, Routes
from evenload.pipeline.records import evaluation_arrays

EXPERTS = 4


def test_every_array_is_read_as_it_was_written(tmp_path: Path, detail: Detail) -> None:
    evaluation_arrays.write(tmp_path, 100, detail)
    read = Detail(
        evaluation_arrays.read_groups(tmp_path),
        evaluation_arrays.read_by_k(tmp_path),
        evaluation_arrays.read_routes(tmp_path),
    )
    for written_part, part in zip(detail, read, strict=True):
        assert written_part is not None
        assert part is not None
        for expected, value in zip(written_part, part, strict=True):
            np.testing.assert_array_equal(value, expected)
    assert sorted(path.name for path in evaluation_arrays.paths(tmp_path)) == [
        "by_k-00000100.parquet",
        "co_activation-00000100.parquet",
        "groups-00000100.parquet",
        "transitions-00000100.parquet",
    ]


def test_a_model_with_one_expert_layer_has_no_transitions(tmp_path: Path) -> None:
    routes = Routes(
        np.ones((1, EXPERTS, EXPERTS), np.int64), np.zeros((0, EXPERTS, EXPERTS), np.int64)
    )
    evaluation_arrays.write(tmp_path, 1, Detail(routes=routes))
    read = evaluation_arrays.read_routes(tmp_path)
    assert read is not None
    assert read.together_LEE.shape == (1, EXPERTS, EXPERTS)
    assert read.onward_LEE.shape == (0, EXPERTS, EXPERTS)


def test_missing_arrays_read_as_none_and_the_newest_evaluation_counts(
    tmp_path: Path, detail: Detail
) -> None:
    assert evaluation_arrays.read_groups(tmp_path) is None
    assert evaluation_arrays.read_routes(tmp_path) is None
    assert detail.by_k is not None
    for step in (7, 20, 100):
        by_k = detail.by_k._replace(tokens=step)
        evaluation_arrays.write(tmp_path, step, Detail(by_k=by_k))
    read = evaluation_arrays.read_by_k(tmp_path)
    assert read is not None
    assert read.tokens == 100
    assert evaluation_arrays.read_groups(tmp_path) is None
