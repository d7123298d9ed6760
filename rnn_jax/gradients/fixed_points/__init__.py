"""Where a network stands still: fixed points, periodic orbits, and how they move with the input."""
