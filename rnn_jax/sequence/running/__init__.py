"""The ways to run a recurrence over time."""
