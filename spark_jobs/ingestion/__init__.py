"""How images become tables on Spark."""
