"""Runs the real client and server apps before anyone agrees to a federation: scenarios, data sets, partitions, carriers, reports."""
