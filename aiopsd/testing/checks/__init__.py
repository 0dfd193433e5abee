"""Conformance suites: what every stream, journal and store promises, as checks that run over any implementation.

A case opens one implementation on one piece of storage, as often as a check asks; each check gets a fresh case. Run
them like this:

    @pytest.mark.parametrize("check", STREAM_CHECKS, ids=name_of)
    async def test_my_stream(check, tmp_path):
        await check(MyCase(tmp_path))

The docstring of a check is the promise. Checks raise AssertionError; they never skip: what an implementation cannot do
by its nature, its case says (`writes`, `loses`), and then the check holds it to saying so itself.
"""

from aiopsd.testing.checks.common import name_of, refusal
from aiopsd.testing.checks.journals import JOURNAL_CHECKS, JournalCase, JournalCheck
from aiopsd.testing.checks.stores import STORE_CHECKS, StoreCase, StoreCheck
from aiopsd.testing.checks.streams import STREAM_CHECKS, StreamCase, StreamCheck

__all__ = (
    "JOURNAL_CHECKS",
    "STORE_CHECKS",
    "STREAM_CHECKS",
    "JournalCase",
    "JournalCheck",
    "StoreCase",
    "StoreCheck",
    "StreamCase",
    "StreamCheck",
    "name_of",
    "refusal",
)
