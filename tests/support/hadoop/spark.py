"""Spark as a client of the servers."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.hadoop.daemons import Hadoop
from tests.support.hadoop.jars import PYSPARK_JARS, s3a_jars
from tests.support.java import CLASS_PATH, SPARK_JAVA


def spark_on_yarn(servers: Hadoop, folder: Path, **settings: str) -> dict[str, str]:
    """Return the variables with which spark-submit finds YARN, HDFS and S3.

    Args:
        servers: the servers.
        folder: where to write Spark's settings.
        settings: further ones, whose names have _ for each dot.
    """
    # as on the nodes of a cluster, where Spark is installed; otherwise each job would upload it
    jars = ",".join(f"local:{jar}" for jar in (f"{PYSPARK_JARS}/*", *s3a_jars()))
    java = {f"spark.{who}.extraJavaOptions": SPARK_JAVA for who in ("driver", "executor")}
    lines = {
        "spark.yarn.jars": jars,
        **java,
        **CLASS_PATH,
        **{name.replace("_", "."): value for name, value in settings.items()},
    }
    (folder / "spark-defaults.conf").write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
    return {
        "HADOOP_CONF_DIR": str(servers.conf),
        "SPARK_CONF_DIR": str(folder),
        "SPARK_DIST_CLASSPATH": os.pathsep.join(s3a_jars()),
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
