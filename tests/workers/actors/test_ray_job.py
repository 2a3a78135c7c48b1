from __future__ import annotations

from evenload.workers.actors.ray_job import _document, _entrypoint


def test_the_document_is_found_between_lines_of_ray_and_the_progress_bar() -> None:
    log = 'INFO setting up {\nsweep 0/2\n{\n  "a": {\n    "b": 1\n  }\n}\nending\n'
    assert _document(log) == '{\n  "a": {\n    "b": 1\n  }\n}\n'


def test_a_job_that_failed_early_has_no_document() -> None:
    assert _document("error: no such device\n") == ""


def test_the_options_of_the_user_are_part_of_the_job() -> None:
    assert _entrypoint(True, 3, False) == "evenload sweep run sweep.yaml --json --slots 3"
    assert _entrypoint(False, None, False) == "evenload sweep run sweep.yaml"
    assert _entrypoint(False, None, True) == "evenload sweep run sweep.yaml --new-version"
