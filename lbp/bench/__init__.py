"""Benchmarks: `make bench`, or `python -m lbp.bench NAME ...` for some of them."""
