from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from common.errors import InputError
from mpi_jobs.engine.world import AgreedError, World


@pytest.fixture(params=[1 << 10, 64 << 20], ids=["pieces", "whole"])
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> World:
    """All ranks, with messages so short that an array takes several of them, and with the usual ones."""
    monkeypatch.setattr("mpi_jobs.engine.world.PIECE_BYTES", request.param)
    return World(MPI.COMM_WORLD)


@pytest.mark.parametrize("n", [0, 1, 127, 128, 129, 5000])
@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.uint8])
def test_a_sum_in_pieces(world: World, n: int, dtype: type) -> None:
    array = (np.arange(n) % 11 + world.rank).astype(dtype)
    world.sum(array)
    expected = (np.arange(n) % 11 * world.size + sum(range(world.size))).astype(dtype)
    assert np.array_equal(array, expected)


def test_a_matrix_is_summed_in_place(world: World) -> None:
    matrix = np.full((40, 30), 2.0**52)
    world.sum(matrix)
    assert np.array_equal(matrix, np.full((40, 30), world.size * 2.0**52))


def test_a_broadcast_from_each_rank(world: World) -> None:
    for root in range(world.size):
        array = np.arange(3000.0) * (root + 1) if world.rank == root else np.empty(3000)
        world.broadcast(array, root)
        assert np.array_equal(array, np.arange(3000.0) * (root + 1))


@pytest.mark.parametrize("each", [0, 1, 400])
def test_every_rank_fills_its_part(world: World, each: int) -> None:
    array = np.full((world.size * each, 3), -1.0)
    array[world.rank * each : (world.rank + 1) * each] = world.rank
    world.share(array)
    assert np.array_equal(array, np.repeat(np.arange(world.size), each)[:, None] * np.ones(3))


def test_parts_must_be_even(world: World) -> None:
    if world.size > 1:
        with pytest.raises(ValueError, match="even parts"):
            world.share(np.zeros(world.size + 1))


def test_what_rank_0_makes_is_everyones(world: World) -> None:
    made = world.at_root(lambda: {"rank": world.rank, "array": np.arange(1000)})
    assert made["rank"] == 0
    assert made["array"].sum() == 499500


def test_what_rank_0_alone_holds_can_be_used_and_shared(world: World) -> None:
    held = world.make_at_root(lambda: [world.rank])
    if world.is_root:
        assert held.value == [0]
    else:
        with pytest.raises(RuntimeError, match=f"rank {world.rank} used a value that rank 0 alone holds"):
            held.value  # noqa: B018
    called: list[int] = []
    held.run(called.extend)
    assert called == ([0] if world.is_root else [])
    assert held.share(lambda value: (value[0], world.rank)) == (0, 0)


def test_an_error_with_what_rank_0_holds_is_everyones(world: World) -> None:
    def wrong(*_: object) -> None:
        raise InputError("no such thing")

    with pytest.raises(AgreedError, match="no such thing"):
        world.make_at_root(wrong)
    held = world.make_at_root(lambda: 1)
    for use in (held.share, held.run):
        with pytest.raises(AgreedError, match="no such thing"):
            use(wrong)


def test_values_are_dealt_out_and_gathered(world: World) -> None:
    own = world.scatter(lambda: [(rank, np.full(rank, 7)) for rank in range(world.size)])
    assert own[0] == world.rank
    assert own[1].tolist() == [7] * world.rank
    assert world.gather(world.rank**2) == ([r**2 for r in range(world.size)] if world.is_root else [])
    assert world.all_gather("x" * world.rank) == ["x" * r for r in range(world.size)]


def test_an_error_of_rank_0_is_everyones(world: World) -> None:
    def wrong() -> None:
        raise InputError("no such thing")

    with pytest.raises(AgreedError, match="no such thing"):
        world.at_root(wrong)
    with pytest.raises(AgreedError, match="no such thing"):
        world.scatter(wrong)  # type: ignore[arg-type]

    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit) as end:
        world.at_root(leave)
    assert end.value.code == 3


def test_an_error_of_any_rank_is_everyones(world: World) -> None:
    def wrong_on_the_last() -> int:
        if world.rank == world.size - 1:
            raise InputError(f"rank {world.rank} cannot")
        return world.rank

    with pytest.raises(AgreedError, match=f"rank {world.size - 1} cannot"):
        world.everywhere(wrong_on_the_last)
    assert world.everywhere(lambda: world.rank) == world.rank


def test_objects_with_large_arrays_pass_between_ranks(world: World) -> None:
    if world.is_root:
        sent = [world.send(("first", np.arange(300_000) + rank), rank) for rank in range(1, world.size)]
        sent += [world.send(None, rank) for rank in range(1, world.size)]
        for request in sent:
            world.finish(request)
    else:
        word, array = world.receive(0)
        assert word == "first"
        assert array.sum() == np.arange(300_000).sum() + 300_000 * world.rank
        assert world.receive(0) is None


def test_a_team_is_a_world_of_its_own(world: World) -> None:
    odd, even = range(1, world.size, 2), range(0, world.size, 2)
    with world.team(odd if world.rank % 2 else even) as team:
        assert team is not None
        assert team.size == len(odd if world.rank % 2 else even)
        total = np.full(1000, float(world.rank))
        team.sum(total)
        assert np.array_equal(total, np.full(1000, float(sum(odd if world.rank % 2 else even))))
        assert team.spent is world.spent
    assert world.all_gather(world.rank) == list(range(world.size))
    with world.team([0] if world.is_root else []) as team:
        assert (team is None) is (world.rank > 0)


def test_values_are_combined_in_the_order_of_ranks(world: World) -> None:
    combined = world.reduce([world.rank], lambda a, b: a + b)
    assert combined == (list(range(world.size)) if world.is_root else None)


def test_a_rank_that_waits_sleeps(world: World) -> None:
    world.meet()
    waited, began = world.spent.waiting, time.process_time()
    if world.is_root:
        time.sleep(0.5)
    world.meet()
    spent: list[Any] = world.all_gather((world.spent.waiting - waited, time.process_time() - began))
    for seconds, processor in spent[1:]:
        assert seconds > 0.3
        assert processor < 0.5 * seconds
