"""What each step is given: batches that are drawn, taken from arrays, or fed by a loader."""
