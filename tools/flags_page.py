"""Writes the parts of docs/flags.md that are made from the tables of server flags and of vLLM's options.

`python tools/flags_page.py` writes them anew; a test fails where the page is not what this makes.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path

from ozone.config.command_line import ArgumentParser, add_engine_arguments
from ozone.config.neutral import NEUTRAL
from ozone.config.upstream import ACCEPTED_FLAGS, ACCEPTED_KEYS, ACCEPTED_VALUES, REFUSED_FLAGS, REFUSED_KEYS
from ozone.config.vllm_environment import ADVICE, READ
from ozone.config.vllm_options import OPTIONS, SERVE, VERSION, negative_names
from ozone.server.flag_table import docs_rows
from ozone.server.flags import ServerSettings, add_server_arguments

PAGE = Path(__file__).parents[1] / "docs" / "flags.md"
BEGIN = "<!-- made by tools/flags_page.py -->\n"
END = "<!-- end of what tools/flags_page.py makes -->\n"

IMPLEMENTED, ACCEPTED, REFUSED = "implemented", "accepted with one warning", "refused"


def serve_flags() -> frozenset[str]:
    """Every flag that `ozone serve` has."""
    parser = ArgumentParser(prog="ozone serve")
    add_engine_arguments(parser, model="both")
    add_server_arguments(parser)
    return frozenset(parser._option_string_actions)


def kind(name: str, flags: frozenset[str]) -> str:
    """What becomes of vLLM's option `name`."""
    if flag(name) in flags:
        return IMPLEMENTED
    return ACCEPTED if name in ACCEPTED_FLAGS else REFUSED


def flag(name: str) -> str:
    """A keyword argument as a flag; a key stays as it is."""
    return name if "." in name else "--" + name.replace("_", "-")


def counts() -> list[tuple[str, int, int, int]]:
    """By kind of answer: options, these with their `--no-` forms, and with every name that switches off."""
    flags = serve_flags()
    rows = []
    for wanted in (IMPLEMENTED, ACCEPTED, REFUSED):
        names = [name for name in SERVE if kind(name, flags) == wanted]
        switches = sum(SERVE[name].shape == "switch" for name in names)
        others = sum(len(negative_names(name)) for name in names)
        rows.append((wanted, len(names), len(names) + switches, len(names) + others))
    return rows


def generated() -> str:
    """What stands between the two marks."""
    return "\n".join([*_counts(), *_accepted(), *_refused(), *_neutral(), *_environment()])


def _counts() -> list[str]:
    rows = counts()
    options, negated, every = (sum(row[column] for row in rows) for column in (1, 2, 3))  # type: ignore[misc]
    switches = sum(option.shape == "switch" for option in SERVE.values())
    return [
        f"## vLLM {VERSION}'s options by answer",
        "",
        *_prose(
            f"`vllm serve` {VERSION} has {options} long options, `--help` included.",
            f"{switches} of them are switches with a `--no-` form: {negated} names.",
            "Where such a switch is called `--enable-X` or `--disable-X`, the other of the two switches",
            f"it off: {every} names. Each of them has one of these answers:",
        ),
        "| answer | options | with `--no-` forms | with `--enable-` and `--disable-` forms too |",
        "|---|---|---|---|",
        *(f"| {name} | {one} | {two} | {three} |" for name, one, two, three in rows),
        f"| all | {options} | {negated} | {every} |",
        "",
        *_prose(
            "Short names (`-dp`), dotted ones (`--attention-config.backend`, `-ac.backend`) and options of",
            "earlier versions are answered likewise.",
        ),
    ]


def _accepted() -> list[str]:
    return [
        "## Accepted without effect",
        "",
        *_prose(
            "Doing without them changes no answer. Each gives one warning with the reason, and a wrong value",
            "is an error.",
            *(
                f"`{flag(name)}` may be {words.replace(' ', ', ')}."
                for name, words in ACCEPTED_VALUES.items()
            ),
        ),
        *_reasons("flags", ACCEPTED_FLAGS),
        *_reasons("keys", ACCEPTED_KEYS),
    ]


def _refused() -> list[str]:
    return [
        "## Refused",
        "",
        "They ask for something that Ozone has not (yet), and stop the start with one line that says so.",
        "",
        *_reasons("flags", REFUSED_FLAGS),
        *_reasons("keys", REFUSED_KEYS),
    ]


def _neutral() -> list[str]:
    by_value: dict[str, list[str]] = {}
    for name, words in NEUTRAL.items():
        for word in sorted(words):
            by_value.setdefault(word, []).append(name)
    return [
        "## Values that ask for nothing",
        "",
        *_prose(
            "An option or a key that is accepted or refused is let through without a word where its value",
            "changes nothing: vLLM's own default, `None`, `null` and an empty word in every case, a switch",
            "that is off, and these:",
        ),
        "| value | of |",
        "|---|---|",
        *(f"| `{value}` | {_listed(names)} |" for value, names in by_value.items()),
        "",
    ]


def _environment() -> list[str]:
    by_advice: dict[str, list[str]] = {}
    for name, advice in ADVICE.items():
        by_advice.setdefault(advice, []).append(f"`{name}`")
    read = " and ".join(f"`{name}`" for name in sorted(READ))
    return [
        "## vLLM's environment variables",
        "",
        *_prose(
            f"vLLM {VERSION} reads {len(ADVICE) + len(READ)} variables whose names begin with `VLLM_`.",
            f"Ozone reads {read}. Each other one that is set gives one warning, with what to do instead or",
            "why there is nothing to do, and so does one that vLLM has not. Those by which Kubernetes",
            "describes a service of the name vllm give one together.",
        ),
        "| variables | instead |",
        "|---|---|",
        *(f"| {', '.join(names)} | {advice} |" for advice, names in by_advice.items()),
        "",
    ]


def _prose(*sentences: str) -> list[str]:
    return [*textwrap.wrap(" ".join(sentences), 100, break_on_hyphens=False), ""]


def _reasons(title: str, table: Mapping[str, str]) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for name, reason in table.items():
        by_reason.setdefault(reason, []).append(name)
    rows = (f"| {_listed(names)} | {reason} |" for reason, names in by_reason.items())
    return [f"| {title} | why |", "|---|---|", *rows, ""]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{flag(name)}`" for name in sorted(names))


def _with_server_flags(page: str) -> str:
    head, *rows = docs_rows(ServerSettings)
    before, _, rest = page.partition(head + "\n")
    after = rest[rest.index("\n\n") + 1 :]
    return "\n".join([before + head, *rows, after])


def current_page() -> str:
    """The page with its made parts made anew."""
    page = _with_server_flags(PAGE.read_text())
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + "\n" + generated() + "\n" + END + after


def main() -> None:
    """Write the page."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    PAGE.write_text(current_page())
    unknown = [name for name in (*ACCEPTED_FLAGS, *REFUSED_FLAGS) if name not in OPTIONS]
    print(f"{PAGE}: {', '.join(f'{name} {count}' for name, count, *_ in counts())}", *unknown)


if __name__ == "__main__":
    main()
