"""Simulation: structures to potentials, and potentials to lazy data with known truth."""
