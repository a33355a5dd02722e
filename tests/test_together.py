"""Requests of many workers go through an encoder together, and fail alone."""

from __future__ import annotations

import asyncio

import numpy as np

from tscc_stream.messages import Float32Array
from tscc_stream.scan.ray_encoder import Together
from tscc_stream.stages.infer import Encoded


class _First:
    """Says each window's first sample; refuses windows that begin below zero."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def encode(self, normalised: Float32Array) -> Encoded:
        first = normalised[:, 0]
        self.batches.append(len(first))
        if (first < 0.0).any():
            raise RuntimeError("below zero")
        return Encoded(first, first, first[:, 0].astype(np.int64), first)


def _asked(together: Together, requests: list[list[float]]) -> list[Encoded | BaseException]:
    async def ask() -> list[Encoded | BaseException]:
        windows = [np.array(some, np.float32)[:, np.newaxis, np.newaxis] for some in requests]
        return await asyncio.gather(*map(together.encode, windows), return_exceptions=True)

    return asyncio.run(ask())


def _said(result: Encoded | BaseException) -> list[int] | str:
    return result.cluster.tolist() if isinstance(result, Encoded) else str(result)


def test_they_go_together_in_whole_requests() -> None:
    encoder = _First()
    results = _asked(Together(encoder, most=5), [[1, 2], [3, 4], [5, 6], [7, 8, 9, 10, 11, 12], [13]])
    assert [_said(one) for one in results] == [[1, 2], [3, 4], [5, 6], [7, 8, 9, 10, 11, 12], [13]]
    assert encoder.batches == [4, 2, 6, 1]


def test_one_that_fails_fails_alone() -> None:
    results = _asked(Together(_First()), [[1, 2], [-3], [4]])
    assert [_said(one) for one in results] == [[1, 2], "below zero", [4]]
