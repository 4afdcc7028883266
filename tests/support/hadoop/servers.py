"""S3, YARN and HDFS, and Amazon EMR in front of them."""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.emr.cloud import Cloud
from tests.support.hadoop.daemons import Hadoop
from tests.support.s3 import S3Server


@dataclass(frozen=True)
class Servers:
    """Servers that run.

    Attributes:
        aws: Amazon EMR, whose steps run on YARN.
        yarn: YARN and HDFS.
        s3: S3.
    """

    aws: Cloud
    yarn: Hadoop
    s3: S3Server
