"""Layouts of ranks, and the flow of chunks through them."""

from __future__ import annotations

import numpy as np
import pytest

from common.data.sources.arrays import ArrayReader
from common.data.sources.source import ImageList
from common.predict.inputs import KnownInputs
from mpi_jobs.pipeline.layout import Layout, RoleName
from mpi_jobs.pipeline.messages import Accepted, Chunk, Decoded, End, Finished, HandOver
from mpi_jobs.pipeline.profile import Profile
from mpi_jobs.pipeline.source import FlowLimits, SourceRole


def a_profile(preprocess: float, predict: float, device: str = "cpu") -> Profile:
    seconds = {"decode": preprocess, "predict": predict}
    return Profile(seconds, "plain", 8, 1, device, "small", (8, 8, 1), 100)


def test_every_rank_has_a_role_and_every_layout_can_work() -> None:
    for count in range(1, 40):
        for ratio in (1, 2, 3, 7, 100):
            check_layout(count, ratio)


def check_layout(count: int, ratio: int) -> None:
    layout = Layout.of(count, ratio)
    assert all(layout.roles(rank) for rank in range(count))
    assert layout.predictors
    workers = [*layout.preprocessors, *layout.predictors]
    assert len(workers) == len(set(workers)) == layout.workers
    for team in layout.teams:
        assert 1 <= len(team.predictors) <= ratio
    if count > 3:
        assert not {layout.source, layout.sink} & set(workers)
        assert layout.workers == count - 2
        assert sum(team.preprocessor is None for team in layout.teams) <= 1


def test_the_rate_of_a_layout() -> None:
    profile = a_profile(0.010, 0.030)
    # a preprocessor keeps three predictors busy: all four cores work
    assert profile.rate(Layout.of(6, 3), 4) == pytest.approx(100)
    # two preprocessors for two predictors: these are the bottleneck
    assert profile.rate(Layout.of(6, 1), 4) == pytest.approx(2 / 0.030)
    # one for five: they are fed 100 a second and have 2 of 5 seconds left, in which they do both
    assert profile.rate(Layout.of(8, 5), 6) == pytest.approx(100 + 2 / 0.040)
    # no more than the cores
    assert profile.rate(Layout.of(34, 3), 2) == pytest.approx(2 / 0.040)
    assert profile.recommend(6, 4) == 3
    assert profile.recommend(18, 16) == 3
    assert a_profile(0.030, 0.010).recommend(6, 4) in (1, 2, 3)
    # predictors on a GPU do not decode
    gpu = a_profile(0.010, 0.001, "cuda")
    assert gpu.rate(Layout.of(6, 1), 4) == pytest.approx(200)
    assert gpu.rate(Layout.of(6, 3), 4) == pytest.approx(100)
    assert gpu.recommend(6, 4) == 1


def test_a_layout_of_the_highest_rate_is_recommended() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        profile = a_profile(*(10 ** rng.uniform(-4, -1, 2)))
        ranks, cores = int(rng.integers(3, 40)), int(rng.integers(1, 40))
        best = max(profile.rate(Layout.of(ranks, ratio), cores) for ratio in range(1, ranks))
        found = profile.rate(Layout.of(ranks, profile.recommend(ranks, cores)), cores)
        assert found == pytest.approx(best, rel=1e-5)


class FakeMailbox:
    """Keeps messages for the test to deliver."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, RoleName, object]] = []

    def send(self, rank: int, role: RoleName, message: object) -> None:
        self.sent.append((rank, role, message))


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("chunks", [1, 3, 50])
def test_no_more_is_under_way_than_is_allowed_and_everything_is_given_out_once(ranks: int, chunks: int) -> None:
    rng = np.random.default_rng(ranks + chunks)
    n, batch = 200, 4
    reader = ArrayReader("some", np.zeros((n, 2, 2, 1), np.uint8))
    images = ImageList([str(i) for i in range(n)], np.arange(n), np.full(n, -1))
    layout, mailbox = Layout.of(ranks, 3), FakeMailbox()
    source = SourceRole(
        mailbox, layout, KnownInputs(reader, images), FlowLimits(batch, 0.0, chunks), True, lambda _: None
    )
    given: dict[int, list[int]] = {}
    at: dict[int, set[int]] = {rank: set() for rank in (*layout.preprocessors, *layout.predictors)}
    decoded: set[int] = set()
    ended: set[tuple[int, RoleName]] = set()
    for _ in range(10_000):
        source.step()
        for rank, kind, message in mailbox.sent:
            if isinstance(message, Chunk):
                given[message.number] = message.items.tolist()
                at[rank].add(message.number)
            elif isinstance(message, HandOver):
                decoded.remove(message.chunk)
                at[message.predictor].add(message.chunk)
            elif isinstance(message, End):
                ended.add((rank, kind))
        mailbox.sent.clear()
        assert max(map(len, at.values())) <= 2
        assert sum(map(len, at.values())) + len(decoded) <= chunks
        busy = [rank for rank in at if at[rank]]
        if ended:
            break
        if busy:
            rank = int(rng.choice(busy))
            chunk = min(at[rank])
            at[rank].remove(chunk)
            if rank in layout.preprocessors:
                decoded.add(chunk)
                source.receive(Decoded(chunk))
            else:
                source.receive(Finished(chunk))
                source.receive(Accepted(len(given[chunk]), 0))
    assert sorted(item for items in given.values() for item in items) == list(range(n))
    assert [item for number in sorted(given) for item in given[number]] == list(range(n))
    assert ended == {(rank, kind) for rank in range(ranks) for kind in layout.roles(rank)}


def test_memory_for_less_than_a_batch_makes_smaller_batches() -> None:
    assert FlowLimits.within(1000, 100, 4, 0.0) == FlowLimits(4, 0.0, 2)
    assert FlowLimits.within(300, 100, 4, 0.0) == FlowLimits(3, 0.0, 1)
    assert FlowLimits.within(1, 100, 4, 0.0) == FlowLimits(1, 0.0, 1)
