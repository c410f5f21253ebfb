"""Runs the real client and server apps in one place, before anybody agrees to a federation.

What belongs here: scenarios, data sets, partitions, carriers, measuring and reports. It has no second copy of the
protocol: bytes pass the same codecs, and a fault is put between real apps. It may use everything below; a deployed side
does not need it.
"""
