"""What papers say of their cells' gradients, each statement beside its measurement."""
