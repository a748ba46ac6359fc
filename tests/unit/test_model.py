"""The nouns: what of them must not be seen."""

from __future__ import annotations

from s3nsync.model import Delivery


def test_a_delivery_shows_neither_its_receipt_nor_its_body() -> None:
    """The receipt settles the message, and a body may hold anything: no line of the log has them."""
    shown = repr(Delivery("live", "m-1", "the-receipt", "the-body", "a-group", attempt=3))
    assert ("the-receipt" in shown, "the-body" in shown) == (False, False)
    assert "m-1" in shown
    assert "attempt=3" in shown
