"""The ridge classifier on Apache Spark."""
