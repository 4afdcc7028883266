"""Ridge classification on Apache Spark: the jobs at the top level, their machinery in packages."""
