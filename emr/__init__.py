"""Run the Spark jobs on Amazon EMR: package, upload, submit, follow, fetch, terminate."""
