"""What every job shares: flags, exit codes, the run folder."""
