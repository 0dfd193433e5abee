"""Logs: records in order with offsets. Every module here implements `protocols.Stream` or `protocols.Journal`.

local.py (durable, embedded: HTTP-pushed metrics), kafka.py (aiokafka), files.py (replay), memory.py (tests and
simulations) are streams of raw records; journal.py is the local journal of decisions to come. None of them knows what
a record means; positions belong to whoever reads.
"""
