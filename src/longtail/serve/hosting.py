"""Served bundles: each with its journal, the requests that wait for it, and its successor when it is replaced."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from longtail.errors import BundleError, LongtailError
from longtail.serve.answers import Answer, answer
from longtail.serve.bundle import open_bundle
from longtail.serve.journal import Journal, Record
from longtail.serve.live import Live
from longtail.serve.manifest import MANIFEST
from longtail.serve.matrix import Floats
from longtail.serve.metrics import Metrics
from longtail.serve.new_texts import NewTexts
from longtail.serve.schema import Events, NewItem, Recommend

log = logging.getLogger(__name__)
T = TypeVar("T")


class TakenError(BundleError):
    """An id that another item has."""


class Host:
    """One bundle's place. All that reads or changes what is live runs in `thread`, of which there is one."""

    def __init__(self, path: Path, state: Path, thread: ThreadPoolExecutor, batch: int, metrics: Metrics) -> None:
        self.path, self.thread, self.batch, self.metrics = path, thread, batch, metrics
        self._seen = self._stamp()
        bundle = open_bundle(path)
        self.name = bundle.manifest.name
        self.journal = Journal(state / f"{self.name}.jsonl")
        self.records = self.journal.records
        self.live, self.texts = Live(bundle, self.records), NewTexts(bundle.manifest)
        self.exposures = state / f"{self.name}.exposures.jsonl"
        self._waiting: list[tuple[Recommend, asyncio.Future[Answer | BundleError]]] = []
        self._busy = False
        self._writing = asyncio.Lock()

    async def run(self, work: Callable[[Live], T]) -> T:
        """Do something with what is live."""
        return await asyncio.get_running_loop().run_in_executor(self.thread, lambda: work(self.live))

    async def recommend(self, request: Recommend) -> Answer:
        """The list of a request, scored together with those that wait beside it; a BundleError if there is none."""
        future: asyncio.Future[Answer | BundleError] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if not self._busy:
            self._busy = True
            self._draining = asyncio.create_task(self._drain())
        found = await future
        if isinstance(found, BundleError):
            raise found
        return found

    async def _drain(self) -> None:
        """Score what waits, again and again until nothing does."""
        try:
            while self._waiting:
                part, self._waiting = self._waiting[: self.batch], self._waiting[self.batch :]
                requests = [request for request, _ in part]
                try:
                    found = await self.run(lambda live, requests=requests: answer(live, requests))  # type: ignore[misc]
                except Exception as error:
                    for _, future in part:
                        if not future.done():
                            future.set_exception(error)
                    continue
                self.metrics.counts["batches"] += 1
                for (_, future), one in zip(part, found, strict=True):
                    if not future.done():
                        future.set_result(one)
        finally:
            self._busy = False

    async def add_item(self, asked: NewItem) -> None:
        """Take a new item: on the disk first, then live. A TakenError if the id is another item's."""
        loop = asyncio.get_running_loop()
        async with self._writing:
            vector = _given(asked)
            if vector is None:
                vector = await loop.run_in_executor(
                    None, lambda: self.texts.vector(asked.text, asked.title, asked.columns)
                )
            record = await self.run(
                lambda live: live.item_record(asked.item, asked.title or (asked.text or ""), asked.columns, vector)
            )
            if await self.run(lambda live: live.items.find(asked.item) > 0):
                if await self.run(lambda live: live.same(record)):
                    return  # told again after an answer that was lost
                raise TakenError(f"item {asked.item!r} is there already; choose another id")
            await self._keep(record)
        self.metrics.counts["items_added"] += 1

    async def add_events(self, asked: Events) -> int:
        """Append to a user's history; how long it is then."""
        async with self._writing:
            await self._keep(await self.run(lambda live: live.event_record(asked.user, asked.items)))
            history = await self.run(lambda live: live.history(asked.user))
        return 0 if history is None else len(history)

    async def _keep(self, record: Record) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.journal.append, [record])
        self.records.append(record)
        await self.run(lambda live: live.apply(record))

    async def follow(self) -> bool:
        """Whether the bundle was replaced and the new one answers now; the old one stays if the new is malformed."""
        stamp = self._stamp()
        if stamp in {self._seen, None}:
            return False
        self._seen = stamp
        async with self._writing:
            try:
                live = await asyncio.get_running_loop().run_in_executor(None, self._loaded)
            except LongtailError as error:
                self.metrics.counts["bundle_refusals"] += 1
                log.error("%s was replaced by what cannot be served, the old bundle goes on: %s", self.path, error)
                return False
            self.texts = NewTexts(live.facts)
            self.live = live
        self.metrics.counts["bundle_swaps"] += 1
        log.warning("%s was replaced; %s of %s answers now", self.path, live.name, live.facts.created)
        return True

    def _loaded(self) -> Live:
        return Live(open_bundle(self.path), self.records)

    def _stamp(self) -> tuple[int, int, int] | None:
        """Of the manifest, other for every export; None while there is none."""
        try:
            facts = (self.path / MANIFEST).stat()
        except OSError:
            return None
        return facts.st_ino, facts.st_mtime_ns, facts.st_size

    def expose(self, request: Recommend, found: Answer) -> None:
        """Log what chance showed and how likely it was, for off-policy estimates."""
        how = request.exploration
        assert how is not None
        row = {
            "time": time.time(), "bundle": self.live.bundle.key, "user": request.user, "history": request.history,
            "policy": how.policy, "strength": how.strength, "seed": how.seed,
            "items": [self.live.items.item(one.place) for one in found.items],
            "propensities": [one.propensity for one in found.items],
        }  # fmt: skip
        with self.exposures.open("a", encoding="utf-8") as opened:
            opened.write(json.dumps(row, ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Let go of the journal."""
        self.journal.close()


def _given(asked: NewItem) -> Floats | None:
    return None if asked.vector is None else np.array(asked.vector, np.float32)
