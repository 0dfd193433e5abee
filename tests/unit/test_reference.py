"""The reference pages are what the code says."""

import pytest

from aiopsd.testing.reference import PAGES, ROOT


@pytest.mark.parametrize("name", sorted(PAGES))
def test_pages_are_up_to_date(name: str) -> None:
    """`python -m aiopsd.testing.reference` would change nothing."""
    assert PAGES[name]() == (ROOT / name).read_text(encoding="utf-8")
