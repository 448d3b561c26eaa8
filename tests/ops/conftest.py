"""Tests of ops find every op registered."""

from __future__ import annotations

import ozone.ops.choice  # noqa: F401
