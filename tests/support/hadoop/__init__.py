"""Hadoop's own servers on this machine: YARN with two NodeManagers, and HDFS."""
