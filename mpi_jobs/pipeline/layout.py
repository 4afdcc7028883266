"""Which rank has which roles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class RoleName(StrEnum):
    """The four parts of the pipeline. A rank can have several roles, but none of them twice."""

    SOURCE = "source"
    SINK = "sink"
    PREPROCESSOR = "preprocessor"
    PREDICTOR = "predictor"


class Team(NamedTuple):
    """Ranks with consecutive numbers, mostly on one machine, that work for each other first.

    Attributes:
        preprocessor: the rank that decodes; None if the predictors decode themselves.
        predictors: the ranks that predict.
    """

    preprocessor: int | None
    predictors: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """The roles of all ranks.

    Attributes:
        ranks: the number of ranks.
        source: the rank that gives out the work.
        sink: the rank that writes predictions.
        teams: the ranks that decode and predict.
    """

    ranks: int
    source: int
    sink: int
    teams: tuple[Team, ...]

    @classmethod
    def of(cls, ranks: int, ratio: int) -> Layout:
        """Return the layout whose teams have one preprocessor and up to `ratio` predictors.

        With four or more ranks, rank 0 is the source and rank 1 the sink. With two or three, rank 0 is both; the
        other rank of two decodes and predicts. A single rank has every role. A rank that is left over decodes for
        itself.
        """
        if ranks < 3:
            return cls(ranks, 0, 0, (Team(None, (ranks - 1,)),))
        sink = 0 if ranks == 3 else 1
        teams = []
        for first in range(sink + 1, ranks, ratio + 1):
            members = range(first, min(first + ratio + 1, ranks))
            alone = len(members) == 1
            teams.append(Team(None, tuple(members)) if alone else Team(members[0], tuple(members[1:])))
        return cls(ranks, 0, sink, tuple(teams))

    @property
    def preprocessors(self) -> tuple[int, ...]:
        """Ranks that decode for others."""
        return tuple(team.preprocessor for team in self.teams if team.preprocessor is not None)

    @property
    def predictors(self) -> tuple[int, ...]:
        """Ranks that predict."""
        return tuple(rank for team in self.teams for rank in team.predictors)

    @property
    def workers(self) -> int:
        """The number of ranks that decode or predict."""
        return len(self.preprocessors) + len(self.predictors)

    def team_of(self, rank: int) -> int:
        """Return the number of the team of a rank that decodes or predicts."""
        return next(
            number for number, team in enumerate(self.teams) if rank in (team.preprocessor, *team.predictors)
        )

    def roles(self, rank: int) -> list[RoleName]:
        """Return the roles of a rank."""
        ranks_by_role = {
            RoleName.SOURCE: (self.source,),
            RoleName.SINK: (self.sink,),
            RoleName.PREPROCESSOR: self.preprocessors,
            RoleName.PREDICTOR: self.predictors,
        }
        return [role for role, ranks in ranks_by_role.items() if rank in ranks]

    def __str__(self) -> str:
        if self.ranks == 1:
            return "one rank that does everything"
        both = self.sink == self.source
        first = "rank 0 source and sink" if both else "rank 0 source, rank 1 sink"
        return "; ".join([first, *_describe(self.teams)])


def _describe(teams: tuple[Team, ...]) -> Iterator[str]:
    """Yield a text for each run of teams of equal shape."""
    start = 0
    while start < len(teams):
        shape = _shape(teams[start])
        end = start
        while end < len(teams) and _shape(teams[end]) == shape:
            end += 1
        equal = teams[start:end]
        alone, predictors = shape
        first = equal[0].predictors[0] if alone else equal[0].preprocessor
        last = equal[-1].predictors[-1]
        ranks = f"rank {first}" if first == last else f"ranks {first} to {last}"
        work = "decodes and predicts" if alone else f"a preprocessor and {_count_predictors(predictors)}"
        yield f"{ranks} {work}" + (f", {len(equal)} times" if len(equal) > 1 else "")
        start = end


def _shape(team: Team) -> tuple[bool, int]:
    """Return whether a team lacks a preprocessor, and its number of predictors."""
    return team.preprocessor is None, len(team.predictors)


def _count_predictors(n: int) -> str:
    return f"{n} predictor" + "s" * (n != 1)
