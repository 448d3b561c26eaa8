"""The documentation names what exists, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_structure_page_has_a_line_for_every_module() -> None:
    page = (ROOT / "docs" / "structure.md").read_text(encoding="utf-8")
    described: set[str] = set()
    room = ""
    for line in page.splitlines():
        if line.startswith("## "):
            heading = re.match(r"## `ozone/(\w+)/`", line)
            room = heading.group(1) if heading else ""
        elif room and (row := re.match(r"\| `([\w/]+\.py)` \|", line)):
            described.add(f"{room}/{row.group(1)}")
    modules = {
        str(path.relative_to(ROOT / "ozone"))
        for path in (ROOT / "ozone").rglob("*.py")
        if path.parent != ROOT / "ozone" and path.read_text(encoding="utf-8").strip()
    }
    assert described == modules


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
