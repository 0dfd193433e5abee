"""The shipped test kit: conformance suites (checks/), a settable clock (clock.py), real services for tests.

A plug-in runs the suite of its kind over itself and knows that it keeps the promise. Nothing shipped imports this.
"""
