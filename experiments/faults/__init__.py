"""Faults made on purpose, with real processes: drills, hostile bytes, cut wires."""
