"""Timings.

python -m benchmarks                    # beside the package's peers; writes RESULTS.md
python -m benchmarks.trees OLD NEW      # two versions of the package: is one slower?
"""
