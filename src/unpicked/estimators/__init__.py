"""Estimators: each one sums a statistic over the data, then updates; the loop is in `unpicked.reconstruct`."""
