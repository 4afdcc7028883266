"""What every job shares: loaders, the ridge algebra, run folders. Imports no engine."""
