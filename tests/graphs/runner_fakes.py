"""What a runner reads of a request."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class FakeRequest:
    token_ids: list[int]
    block_ids: list[int]
