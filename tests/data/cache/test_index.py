from __future__ import annotations

import numpy as np
import pytest

from tove_core.data.cache.index import DigestIndex


def drawn(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32), dtype=np.uint8)


def by_dict(digests: np.ndarray, wanted: np.ndarray) -> list[int]:
    rows: dict[bytes, int] = {}
    for row, digest in enumerate(digests):
        rows.setdefault(digest.tobytes(), row)
    return [rows.get(digest.tobytes(), -1) for digest in wanted]


@pytest.mark.parametrize("count", [0, 1, 2, 137])
def test_rows_are_those_a_dict_gives(count):
    digests = drawn(count)
    wanted = np.concatenate([digests[::-1], drawn(11, seed=1), digests[: count // 2]])
    assert DigestIndex(digests).rows(wanted).tolist() == by_dict(digests, wanted)


def test_digests_that_share_their_first_bytes_are_told_apart():
    digests = drawn(60)
    digests[:, :8] = digests[np.arange(60) % 3, :8]
    strangers = digests.copy()
    strangers[:, 31] ^= 1
    wanted = np.concatenate([digests, strangers])
    assert DigestIndex(digests).rows(wanted).tolist() == by_dict(digests, wanted)


def test_the_first_of_equal_digests_counts_and_the_others_are_repeated():
    digests = drawn(9)
    digests[[4, 7]] = digests[2]
    index = DigestIndex(digests)
    assert index.rows(digests[[7, 4, 2]]).tolist() == [2, 2, 2]
    assert np.flatnonzero(index.repeated()).tolist() == [4, 7]


def test_edges_of_the_range_are_found():
    digests = np.stack([np.full(32, value, np.uint8) for value in (255, 0, 128, 127)])
    assert DigestIndex(digests).rows(digests).tolist() == [0, 1, 2, 3]
