"""Turning images into tables on Spark: sources are listed, decoded by executors, and committed by the driver."""
