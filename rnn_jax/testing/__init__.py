"""Checks for authors of cells: every law that the package relies on, by one call."""

from rnn_jax.testing.checking_cells import check_cell
from rnn_jax.testing.law import CellReport, LawError, LawResult

__all__ = ["CellReport", "LawError", "LawResult", "check_cell"]
