"""Stand-ins for Amazon EMR and the people who use it."""
