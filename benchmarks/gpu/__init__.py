"""The package on an NVIDIA GPU, beside cuDNN: `python -m benchmarks.gpu` writes RESULTS_GPU.md.

python -m benchmarks.gpu                          # all tables
python -m benchmarks.gpu --budget 9m              # as many rows as fit; the next call goes on
python -m benchmarks.gpu --only gradient,accuracy --rounds 7
python -m benchmarks.gpu --list                   # rows, and which of them are measured
python -m benchmarks.gpu --retry                  # measure rows anew that hold an error
python -m benchmarks.gpu --page                   # write the page from the rows that there are
python -m benchmarks.gpu --platform cpu --tiny --out /somewhere/page.md      # a rehearsal

Each row is kept as a line of JSON beside the page as soon as it is measured, so that a run that is
cut short loses one row at most. Rows are in the order of their weight: those that the kernels are
judged by come first.
"""

import os

# PyTorch needs memory of the card, too. Read when JAX first computes.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
