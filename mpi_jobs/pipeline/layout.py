"""Which rank does what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """What a rank can be; one rank can be several of them, but no kind twice."""

    SOURCE = "source"
    SINK = "sink"
    PREPROCESSOR = "preprocessor"
    PREDICTOR = "predictor"


class Team(NamedTuple):
    """Ranks that lie side by side, mostly on one machine, and work for each other first.

    Attributes:
        preprocessor: the rank that decodes; None where the predictors do it themselves.
        predictors: ranks.
    """

    preprocessor: int | None
    predictors: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """The roles of all ranks.

    Attributes:
        ranks: how many there are.
        source: the rank that says what is to be done.
        sink: the rank that writes.
        teams: the others.
    """

    ranks: int
    source: int
    sink: int
    teams: tuple[Team, ...]

    @classmethod
    def of(cls, ranks: int, ratio: int) -> Layout:
        """One preprocessor and up to `ratio` predictors a team.

        From four ranks on, rank 0 is the source and rank 1 the sink. With two or three, rank 0 is both; the other
        of two decodes and predicts. A single rank is everything. A rank that is left over decodes for itself.
        """
        if ranks < 3:
            return cls(ranks, 0, 0, (Team(None, (ranks - 1,)),))
        sink = 0 if ranks == 3 else 1
        teams = []
        for first in range(sink + 1, ranks, ratio + 1):
            own = range(first, min(first + ratio + 1, ranks))
            teams.append(Team(own[0], tuple(own[1:])) if len(own) > 1 else Team(None, tuple(own)))
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
        """Ranks that decode or predict."""
        return len(self.preprocessors) + len(self.predictors)

    def team_of(self, rank: int) -> int:
        """The number of the team that a worker is in."""
        return next(
            number for number, team in enumerate(self.teams) if rank in (team.preprocessor, *team.predictors)
        )

    def kinds(self, rank: int) -> list[Kind]:
        """What a rank is."""
        where = {
            Kind.SOURCE: (self.source,),
            Kind.SINK: (self.sink,),
            Kind.PREPROCESSOR: self.preprocessors,
            Kind.PREDICTOR: self.predictors,
        }
        return [kind for kind, ranks in where.items() if rank in ranks]

    def __str__(self) -> str:
        if self.ranks == 1:
            return "one rank that does everything"
        folded = "source and sink" if self.sink == self.source else None
        first = f"rank 0 {folded}" if folded else "rank 0 source, rank 1 sink"
        return "; ".join([first, *_told(self.teams)])


def _told(teams: tuple[Team, ...]) -> Iterator[str]:
    """Teams in words, equal ones together."""
    at = 0
    while at < len(teams):
        shape = (teams[at].preprocessor is None, len(teams[at].predictors))
        end = at
        while end < len(teams) and (teams[end].preprocessor is None, len(teams[end].predictors)) == shape:
            end += 1
        alone, predictors = shape
        same = teams[at:end]
        first = same[0].predictors[0] if alone else same[0].preprocessor
        last = same[-1].predictors[-1]
        span = f"rank {first}" if first == last else f"ranks {first} to {last}"
        what = "decodes and predicts" if alone else f"a preprocessor and {_counted(predictors)}"
        yield f"{span} {what}" + (f", {len(same)} times" if len(same) > 1 else "")
        at = end


def _counted(predictors: int) -> str:
    return f"{predictors} predictor" + "s" * (predictors != 1)
