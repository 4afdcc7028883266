"""Everything a verb of the command line works with: settings, services, plan, and the user's selection."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from common.errors import InputError, JobError
from emr import clusters
from emr.aws import Aws, NotConfiguredError
from emr.bucket import Bucket
from emr.clusters import Record, tags_of
from emr.plan import Plan
from emr.settings import Settings
from emr.terminal import Terminal


@dataclass
class Context:
    """Everything a verb works with.

    Attributes:
        settings: the user's settings.
        reporter: shows what happens.
        data_root: the folder of named data sets.
        packages: the folder that keeps archives of dependencies on this machine.
        cluster: id of a cluster that the user names, or "".
        step: id of a step that the user names, or "".
        run: name of a run folder that the user names, or "".
    """

    settings: Settings
    reporter: Terminal
    data_root: Path
    packages: Path
    cluster: str = ""
    step: str = ""
    run: str = ""

    @cached_property
    def aws(self) -> Aws:
        """The services."""
        return Aws(self.settings.region)

    @cached_property
    def plan(self) -> Plan:
        """The deployment in the account of the user's credentials."""
        aws = self.aws
        return self._plan(aws.region, *aws.identity)

    @cached_property
    def dry_run_plan(self) -> Plan:
        """The plan of a dry run. Without credentials, words in capitals stand for names that depend on them."""
        try:
            aws = self.aws
        except NotConfiguredError as error:
            return self._plan_without_aws(error)
        try:
            aws.identity  # noqa: B018  # raises without credentials, with expired ones, or without a network
        except JobError as error:
            return self._plan_without_aws(error)
        return self.plan

    def _plan_without_aws(self, reason: JobError) -> Plan:
        self.reporter.info(f"AWS is not asked ({reason}); ACCOUNT, YOU and REGION below stand for yours")
        return self._plan(self.settings.region or "REGION", "ACCOUNT", "YOU")

    def _plan(self, region: str, account: str, owner: str) -> Plan:
        return Plan.of(self.settings, region, account, owner, self.data_root, self.packages)

    @property
    def dry_run_bucket(self) -> str:
        """The bucket's name, for dry runs that ask AWS nothing."""
        return self.settings.bucket_in("ACCOUNT", self.settings.region or "REGION")

    def project_bucket(self) -> Bucket:
        """Return the bucket of the project's objects, whether or not it exists."""
        return Bucket(self.aws, self.settings.bucket_in(self.aws.identity.account, self.aws.region))

    def bucket(self) -> Bucket:
        """Return the bucket of the project's objects.

        Raises:
            InputError: it does not exist.
        """
        bucket = self.project_bucket()
        if bucket.region() is None:
            raise InputError(
                f"bucket {bucket.name}: does not exist; nothing was deployed in this account and region"
            )
        return bucket

    def own_clusters(self, states: list[str]) -> Iterator[Record]:
        """Yield the clusters that this user deployed, newest first.

        Args:
            states: states to select; an empty list selects all.
        """
        owner = self.aws.identity.arn
        for cluster in clusters.list_ours(self.aws, states):
            if tags_of(cluster).get("deployed-by") == owner:
                yield cluster

    def chosen_cluster(self, states: list[str]) -> Record:
        """Return the cluster that the user names, or else the newest of theirs in one of these states.

        Raises:
            InputError: there is none.
        """
        if self.cluster:
            return clusters.describe(self.aws, self.cluster)
        newest = next(self.own_clusters(states), None)
        if newest is None:
            raise InputError("you have no cluster; --cluster names one, `make emr-list` shows all")
        return newest

    def chosen_step(self, cluster: Record) -> Record:
        """Return the step that the user names, or else the cluster's newest.

        Raises:
            InputError: there is none.
        """
        steps = clusters.list_steps(self.aws, cluster["Id"])
        step = next((step for step in steps if self.step in ("", step["Id"])), None)
        if step is None:
            raise InputError(f"cluster {cluster['Id']} has no step {self.step}".rstrip())
        return step
