"""Spark as a client of the servers."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.hadoop.daemons import Hadoop
from tests.support.hadoop.jars import PYSPARK_JARS, s3a_jars


def spark_on_yarn(servers: Hadoop, folder: Path) -> dict[str, str]:
    """Return the variables with which spark-submit finds YARN, HDFS and S3.

    Args:
        servers: the servers.
        folder: where to write Spark's settings.
    """
    # as on the nodes of a cluster, where Spark is installed; otherwise each job would upload it
    jars = ",".join(f"local:{jar}" for jar in (f"{PYSPARK_JARS}/*", *s3a_jars()))
    (folder / "spark-defaults.conf").write_text(f"spark.yarn.jars {jars}\n")
    return {
        "HADOOP_CONF_DIR": str(servers.conf),
        "SPARK_CONF_DIR": str(folder),
        "SPARK_DIST_CLASSPATH": os.pathsep.join(s3a_jars()),
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
