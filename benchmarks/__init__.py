"""Timings.

python -m benchmarks                    # beside the package's peers; writes RESULTS.md
python -m benchmarks.cells              # every cell beside its products; writes RESULTS_CELLS.md
python -m benchmarks.cells --docs       # and the table of docs/cells/index.md
python -m benchmarks.gpu                # on a GPU, beside cuDNN; writes RESULTS_GPU.md
python -m benchmarks.trees OLD NEW      # two versions of the package: is one slower?
"""
