from __future__ import annotations

from collections import Counter

from tove_core.evaluation.differing import Pair, choose


def pair(number: int, kind: str, run: float, other: float, image: str | None = None) -> Pair:
    return Pair(f"s{number}", image or f"i{number}", kind, "exact match", "a", "b", run, other)


def test_both_ways_are_drawn_and_kinds_take_turns() -> None:
    pairs = [pair(n, ("colour", "count", "far")[n % 3], float(n % 2), float(not n % 2)) for n in range(90)]
    pairs += [pair(100 + n, "colour", 1.0, 1.0) for n in range(5)]
    chosen = choose(pairs, 13)
    better = [one for one in chosen if one.run_score > one.other_score]
    assert len(chosen) == 13 and len(better) == 7
    assert chosen == better + [one for one in chosen if one.run_score < one.other_score]
    assert sorted(Counter(one.kind for one in better).values()) == [2, 2, 3]


def test_the_choice_hangs_on_ids_and_seed_and_not_on_the_order() -> None:
    pairs = [pair(n, "k", 1.0, 0.0) for n in range(50)]
    first = choose(pairs, 8)
    assert choose(pairs[::-1], 8) == first
    assert choose(pairs, 8, seed=1) != first
    assert choose(pairs, 20)[:8] == first, "more examples keep the first ones"


def test_where_one_way_is_short_the_other_fills_up() -> None:
    better = [pair(n, "k", 1.0, 0.0) for n in range(3)]
    worse = [pair(10 + n, "k", 0.0, 1.0) for n in range(9)]
    for few, many in ((better, worse), (worse[:2], better)):
        chosen = choose([*few, *many], 8)
        assert len(chosen) == min(8, len(few) + len(many)) and set(few) <= set(chosen)
    assert choose(better, 0) == [] and choose([], 5) == []


def test_an_image_comes_twice_only_where_no_other_is_left() -> None:
    shared = [pair(n, "k", 1.0, 0.0, image="same") for n in range(6)]
    chosen = choose([*shared, pair(7, "k", 1.0, 0.0), pair(8, "k", 1.0, 0.0)], 3)
    assert {one.image for one in chosen} == {"same", "i7", "i8"}
    assert len(choose(shared, 4)) == 4
