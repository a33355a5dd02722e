"""An encoder that many processes ask at a time: their windows go through together.

`RayEncoder` is the actor, one for each graphics card; `Remote` is what a worker sees of it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tscc_stream import package
from tscc_stream.messages import Float32Array
from tscc_stream.scan.encoders import EncoderLostError, encoder_of
from tscc_stream.scan.job import stored_job
from tscc_stream.scan.layout import Layout
from tscc_stream.stages.infer import Encoded, Encoder

MOST_WINDOWS = 4096
GATHER_SECONDS = 0.003
"""Longest that windows wait for company, while the encoder is free."""
ANSWER_SECONDS = 300.0
"""Longest that a worker waits for its windows."""
Actor = Any
"""Ray's handle of a RayEncoder."""


class Together:
    """Requests that come at about the same time as one batch of an encoder.

    While a batch is encoded, in a thread, further requests gather. Where a batch fails, its requests are encoded one
    by one, so that only those fail that must.
    """

    def __init__(self, encoder: Encoder, most: int = MOST_WINDOWS, gather_seconds: float = GATHER_SECONDS) -> None:
        self._encoder, self._most, self._gather = encoder, most, gather_seconds
        self._waiting: list[tuple[Float32Array, asyncio.Future[Encoded]]] = []
        self._at_work: asyncio.Task[None] | None = None
        self.batches: list[int] = []

    async def encode(self, normalised: Float32Array) -> Encoded:
        """As Encoder has it. Raises what the encoder does."""
        answer: asyncio.Future[Encoded] = asyncio.get_running_loop().create_future()
        self._waiting.append((normalised, answer))
        if self._at_work is None:
            self._at_work = asyncio.create_task(self._work())
        return await answer

    async def _work(self) -> None:
        while self._waiting:
            await asyncio.sleep(self._gather)
            taken = self._taken()
            results = await asyncio.to_thread(self._encoded, [normalised for normalised, _ in taken])
            for (_, answer), result in zip(taken, results, strict=True):
                if answer.done():  # who asked has gone
                    continue
                if isinstance(result, Exception):
                    answer.set_exception(result)
                else:
                    answer.set_result(result)
        self._at_work = None

    def _taken(self) -> list[tuple[Float32Array, asyncio.Future[Encoded]]]:
        """Whole requests, at least one, in the order in which they came."""
        windows = itertools.accumulate(len(normalised) for normalised, _ in self._waiting)
        fitting = max(1, sum(count <= self._most for count in windows))
        taken, self._waiting = self._waiting[:fitting], self._waiting[fitting:]
        return taken

    def _encoded(self, requests: Sequence[Float32Array]) -> list[Encoded | Exception]:
        self.batches = [*self.batches[-999:], sum(map(len, requests))]
        try:
            return list(_split(self._encoder.encode(np.concatenate(requests)), [len(one) for one in requests]))
        except Exception as error:  # noqa: BLE001  # told to who asked
            return [error] if len(requests) == 1 else [self._encoded([one])[0] for one in requests]


def _split(encoded: Encoded, counts: Sequence[int]) -> Iterator[Encoded]:
    """The results of each request."""
    first = 0
    for count in counts:
        part = slice(first, first + count)
        first += count
        yield Encoded(
            encoded.embedding[part], encoded.membership[part], encoded.cluster[part], encoded.squared_distance[part]
        )


class RayEncoder:
    """The actor. folder: of the scan; card: whether it has a graphics card of its own, which it sees as the only one.

    Raises PackageError where the model cannot be run.
    """

    def __init__(self, folder: str, card: bool) -> None:
        job = stored_job(Layout(Path(folder)))
        config, loaded = job.settings(), package.load_live(Path(job.model))
        if card:
            inference = config.inference.model_copy(update={"device": "cuda"})
            config = config.model_copy(update={"inference": inference})
        self._card = card
        self._together = Together(encoder_of(config, loaded, bool(job.few) and not card))

    async def ready(self) -> int:
        """Its process, once it is loaded."""
        return os.getpid()

    async def batches(self) -> list[int]:
        """How many windows the last batches had."""
        return self._together.batches

    async def encode(self, normalised: Float32Array) -> Encoded:
        """As Encoder has it."""
        try:
            return await self._together.encode(normalised)
        except RuntimeError as error:
            if self._card:  # an error of a card stays with its process: Ray starts another one
                print(f"the encoder failed: {error}", file=sys.stderr, flush=True)  # noqa: T201  # into Ray's log
                os._exit(1)
            raise


class Remote:
    """Actors as an encoder; one after the other is asked."""

    def __init__(self, encoders: Sequence[Actor]) -> None:
        self._next = itertools.cycle(encoders)
        for _ in range(os.getpid() % len(encoders)):  # not all workers the same one first
            next(self._next)

    def encode(self, normalised: Float32Array) -> Encoded:
        """As Encoder has it. Raises EncoderLostError where the actor failed or died; by then it is up again."""
        import ray  # noqa: PLC0415  # in a process of Ray

        encoder = next(self._next)
        try:
            found: Encoded = ray.get(encoder.encode.remote(normalised), timeout=ANSWER_SECONDS)
        except ray.exceptions.RayTaskError as error:
            raise EncoderLostError(f"its encoder failed: {str(error).strip().splitlines()[-1]}") from error
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError, ray.exceptions.ObjectLostError) as error:
            self._wait_for(encoder)
            raise EncoderLostError(f"its encoder was lost ({type(error).__name__})") from error
        return found

    @staticmethod
    def _wait_for(encoder: Actor) -> None:
        """Until it is up again, but not for ever: to try at once would be in vain."""
        import ray  # noqa: PLC0415  # in a process of Ray

        ready = encoder.ready.options(max_task_retries=-1).remote()
        ray.wait([ready], timeout=ANSWER_SECONDS)
