"""Where a run's arrays lie, and who runs it."""
