"""Stores: decisions, outbox and positions in one transaction. Implementations of `protocols.Store`.

sqlite.py is the store of one machine; memory.py keeps the same promises for tests and simulations, without the disk.
"""
