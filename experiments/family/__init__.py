"""The whole family of cells on the same problems: how far gradients reach, and who learns."""
