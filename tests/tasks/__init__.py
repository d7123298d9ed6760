"""A package, so that its `zoo` and that of the cells are two modules."""
