"""Everything a verb of the command line works with: settings, services, plan, and the user's selection."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from common.errors import InputError, JobError
from emr.aws import Aws, Clock, NotConfiguredError
from emr.bucket import Bucket, project_bucket
from emr.deploy import Deployment
from emr.ec2.clusters import Clusters
from emr.ec2.plan import ClusterPlan
from emr.plan import Plan
from emr.serverless.applications import Applications
from emr.serverless.plan import ApplicationPlan
from emr.settings import SERVERLESS, Settings
from emr.target import Host, Work
from emr.terminal import Terminal

AnyPlan = TypeVar("AnyPlan", bound=Plan)


@dataclass
class Context:
    """Everything a verb works with.

    Attributes:
        settings: the user's settings.
        reporter: shows what happens.
        data_root: the folder of named data sets.
        packages: the folder that keeps archives of dependencies on this machine.
        host: id of a cluster or application that the user names, or "".
        work: id of a step or job run that the user names, or "".
        run: name of a run folder that the user names, or "".
    """

    settings: Settings
    reporter: Terminal
    data_root: Path
    packages: Path
    host: str = ""
    work: str = ""
    run: str = ""

    @cached_property
    def aws(self) -> Aws:
        """The services."""
        return Aws(self.settings.region)

    @cached_property
    def target(self) -> Clusters | Applications:
        """The clusters or applications that jobs run on."""
        kind = Applications if self.settings.target == SERVERLESS else Clusters
        return kind(self.aws, Clock(), self.settings)

    def deploy(self, host: str = "") -> int:
        """Deploy to a host, or, without an id, to one of the deployment's own; return the exit code."""
        aws, clock, rest = self.aws, Clock(), (self.reporter, host)
        where = aws.region, *aws.identity
        if self.settings.target == SERVERLESS:
            applications = Applications(aws, clock, self.settings)
            return Deployment(aws, clock, applications, self._plan(ApplicationPlan, *where), *rest).run()
        clusters = Clusters(aws, clock, self.settings)
        return Deployment(aws, clock, clusters, self._plan(ClusterPlan, *where), *rest).run()

    @property
    def plan_kind(self) -> type[Plan]:
        """The class of plans for the target."""
        return ApplicationPlan if self.settings.target == SERVERLESS else ClusterPlan

    def dry_run_plan(self, kind: type[AnyPlan]) -> AnyPlan:
        """Return the plan of a dry run. Without credentials, words in capitals stand for names that need them."""
        reason: JobError
        try:
            aws = self.aws
        except NotConfiguredError as error:
            reason = error
        else:
            try:
                account, owner = aws.identity
            except JobError as error:
                reason = error
            else:
                return self._plan(kind, aws.region, account, owner)
        self.reporter.info(f"AWS is not asked ({reason}); ACCOUNT, YOU and REGION below stand for yours")
        return self._plan(kind, self.settings.region or "REGION", "ACCOUNT", "YOU")

    def _plan(self, kind: type[AnyPlan], region: str, account: str, owner: str) -> AnyPlan:
        return kind.of(self.settings, region, account, owner, self.data_root, self.packages)

    @property
    def dry_run_bucket(self) -> str:
        """The bucket's name, for dry runs that ask AWS nothing."""
        return self.settings.bucket_in("ACCOUNT", self.settings.region or "REGION")

    def bucket(self) -> Bucket:
        """Return the bucket of the project's objects.

        Raises:
            InputError: it does not exist.
        """
        return project_bucket(self.aws, self.settings).existing()

    def own_hosts(self, active: bool) -> Iterator[Host]:
        """Yield the hosts that this user deployed, newest first; if `active`, only those."""
        owner = self.aws.identity.arn
        return (host for host in self.target.hosts(active) if host.owner == owner)

    def chosen_host(self, active: bool) -> Host:
        """Return the host that the user names, or else the newest of theirs; if `active`, the newest active one.

        Raises:
            InputError: there is none.
        """
        kind = self.target.host
        host = self.target.look(self.host) if self.host else next(self.own_hosts(active), None)
        if host is None and self.host:
            raise InputError(f"{kind} {self.host}: there is none; `make emr-list` shows all")
        if host is None:
            raise InputError(f"you have no {kind}; --{kind} names one, `make emr-list` shows all")
        return host

    def chosen_work(self, host: Host) -> Work:
        """Return the work that the user names, or else the host's newest.

        Raises:
            InputError: there is none.
        """
        work = next((work for work in self.target.works(host.id) if self.work in ("", work.id)), None)
        if work is None:
            raise InputError(f"{self.target.host} {host.id} has no {self.target.work} {self.work}".rstrip())
        return work
