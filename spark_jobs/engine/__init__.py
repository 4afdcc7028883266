"""How the ridge jobs go parallel on Spark."""
