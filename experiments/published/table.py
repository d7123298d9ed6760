"""Every result that can be run again, in the order of their subjects."""

from published import (
    lstm_memory_path,
    pascanu2013_bounds,
)

RESULTS = (
    pascanu2013_bounds.RESULT,
    lstm_memory_path.RESULT,
)
