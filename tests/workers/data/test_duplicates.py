"""The split follows the content, and copies never stand on both sides."""

from __future__ import annotations

import random

import pytest

from evenload.workers.data.documents import Document
from evenload.workers.data.duplicates import BOILERPLATE, FAMILY, split


def words(seed: int, count: int) -> str:
    return " ".join(f"w{number}" for number in random.Random(seed).sample(range(10**6), count))


def documents(*texts: str) -> list[Document]:
    return [Document(text, "g") for text in texts]


MANY = [words(seed, 200) for seed in range(400)]


def test_about_the_share_is_held_out() -> None:
    found = split(documents(*MANY), 0.2)
    assert 50 < len(found.validation) < 110
    assert found.origin == (400, 0, 0, 0, 0.0)


def test_the_order_does_not_matter() -> None:
    first = split(documents(*MANY), 0.2)
    shuffled = random.Random(1).sample(MANY, len(MANY))
    assert split(documents(*shuffled), 0.2) == first


def test_copies_that_differ_in_white_space_are_one_document() -> None:
    found = split(documents(*MANY, *(f"  {text}\n" for text in MANY[:30]), " ", ""), 0.2)
    assert found.origin[:3] == (400, 2, 30)
    both = {" ".join(document.text.split()) for document in (*found.train, *found.validation)}
    assert len(both) == 400


def test_composed_and_decomposed_letters_are_the_same() -> None:
    assert split(documents("Zwo\u0308lf Boxer", "Zw\u00f6lf Boxer", "x"), 0.5).origin.copies == 1


@pytest.mark.parametrize("family", [2, FAMILY])
def test_near_duplicates_stand_on_one_side(family: int) -> None:
    """Each text and its variants share all but a few words."""
    texts = [
        f"{text[: len(text) // 2]} {variant} {text[len(text) // 2 :]}"
        for text in MANY
        for variant in range(family)
    ]
    found = split(documents(*texts), 0.2)
    assert found.origin.similar == (family - 1) * len(MANY)
    assert found.origin.leaked_share == 0
    assert 40 * family < len(found.validation) < 120 * family


def test_a_large_family_trains() -> None:
    texts = [f"{variant} {MANY[0]}" for variant in range(FAMILY + 1)]
    found = split(documents(*texts, *MANY[1:]), 0.9)
    held_out = {document.text for document in found.validation}
    assert not held_out.intersection(texts)


def test_boilerplate_makes_no_documents_similar_and_counts_as_seen() -> None:
    licence = words(-1, 60)
    found = split(documents(*(f"{licence} {text}" for text in MANY)), 0.2)
    assert len(MANY) > BOILERPLATE
    assert found.origin.similar == 0
    assert found.origin.leaked_share == pytest.approx(60 / 260)


def test_only_runs_of_fifty_words_count_as_seen() -> None:
    """Each text has its own half and a half of another text, too little to be similar."""
    for shared, leaked in ((49, 0.0), (60, 0.3)):
        texts = [f"{words(-seed, shared)} {words(seed, 1000)}" for seed in range(1, 200)]
        texts += [f"{words(seed + 999, 1000)} {words(-seed, shared)}" for seed in range(1, 200)]
        share = split(documents(*texts), 0.2).origin.leaked_share
        assert (share > 0) == (leaked > 0)
