"""The page of ``keelway diff --html``: one file with everything in it, which runs nothing and fetches nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from keelway.cli.diff import cell, differing, mark, mean_of, number, share, summary

_NUMBER = ' class="number"'

_WORDS = {
    "major": "a caller of the old version could break",
    "minor": "callers go on; predictions or what is offered differ",
    "patch": "equivalent for callers",
}


def page(document: dict[str, Any]) -> str:
    """``document`` is what ``keelway.publish.diff`` makes. All of it is escaped: names and categories are data."""
    old, new = document["old"], document["new"]
    versions = (old["version"], new["version"]) if old["version"] != new["version"] else ("old", "new")
    sections = [
        _section("Signature", _sides(document["signature"], versions, "nothing is promised")),
        _section("Declared", _sides(document["declared"], versions, "nothing is declared of either")),
        _section(
            "Behaviour", "".join(_behaviour(sample, versions) for sample in document["behaviour"]) or _no_sample()
        ),
        _section("Metadata", _sides(document["metadata"], versions, "nothing is known")),
    ]
    template = Template(files("keelway.cli").joinpath("diff.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(f"{new['model']} {old['version']} → {new['version']}"),
        old=_identity(old),
        new=_identity(new),
        part=document["part"],
        words=_WORDS[document["part"]],
        reasons=_reasons(document["reasons"]),
        sections="".join(sections),
    )


def _identity(side: dict[str, Any]) -> str:
    aliases = "".join(f'<span class="chip">{escape(alias)}</span>' for alias in side["aliases"])
    name = f"<strong>{escape(side['model'])} {escape(side['version'])}</strong> {aliases}"
    return f'<p>{name}</p><p class="quiet mono">{escape(side["model_digest"])}</p>'


def _reasons(reasons: Sequence[dict[str, Any]]) -> str:
    if not reasons:
        return "<li>nothing that a caller would notice</li>"
    return "".join(
        f'<li><span class="pill {reason["part"]}">{reason["part"]}</span> {escape(reason["message"])}</li>'
        for reason in reasons
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>"


def _sides(rows: Sequence[dict[str, Any]], versions: Sequence[str], nothing: str) -> str:
    """Changed rows open, the others behind a line that opens them."""
    if not rows:
        return f'<p class="quiet">{nothing}</p>'
    changed = [row for row in rows if row["changed"]]
    same = [row for row in rows if not row["changed"]]
    parts = [_table(changed, versions)] if changed else ['<p class="quiet">nothing differs</p>']
    if same:
        what = f"{len(same)} the same on both sides"
        parts.append(f"<details><summary>{what}</summary>{_table(same, versions)}</details>")
    return "".join(parts)


def _table(rows: Iterable[dict[str, Any]], versions: Sequence[str]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("", *versions))
    body = []
    for row in rows:
        kind = f'<span class="quiet">{row["kind"]}</span> ' if "kind" in row else ""
        word = f' <span class="mark {mark(row)}">{mark(row)}</span>' if mark(row) else ""
        sides = "".join(
            f'<td data-side="{escape(version)}">{escape(cell(row[side]))}</td>'
            for side, version in zip(("old", "new"), versions, strict=True)
        )
        body.append(f'<tr><th scope="row">{kind}{escape(row["name"])}{word}</th>{sides}</tr>')
    return f'<table class="sides"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'


def _behaviour(sample: dict[str, Any], versions: Sequence[str]) -> str:
    head = f"<h3>On the golden sample of {escape(sample['of'])}, {sample['rows']} rows</h3>"
    text = f"<p>{escape(summary(sample))}</p>"
    if not sample.get("slices"):
        return head + text
    what = sample["predicts"]
    names = ["slice", "rows", differing(sample)]
    note = "A slice of few rows differs by chance alone: look at the rows before the share."
    if sample["score"]:
        names += [f"mean {version}" for version in versions]
        note += f" The means are of the {sample['score']}."
    right = {"rows", *names[3:]}
    columns = "".join(f'<th scope="col"{_NUMBER if name in right else ""}>{escape(name)}</th>' for name in names)
    features: dict[str, list[dict[str, Any]]] = {}
    for part in sample["slices"]:
        features.setdefault(part["feature"], []).append(part)
    ordered = sorted(features.items(), key=lambda item: -max(part[what] / part["rows"] for part in item[1]))
    body = []
    for feature, parts in ordered:
        body.append(f'<tr class="feature"><th colspan="{len(names)}" scope="rowgroup">{escape(feature)}</th></tr>')
        body += [_slice(part, what) for part in parts]
    table = f"<table><thead><tr>{columns}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    scrolled = f'<div class="wide" tabindex="0" role="region" aria-label="slices">{table}</div>'
    return f'{head}{text}{scrolled}<p class="quiet">{escape(note)}</p>'


def _slice(part: dict[str, Any], what: str) -> str:
    width = round(100 * part[what] / part["rows"])
    bar = f'<span class="bar"><span style="width:{width}%"></span></span>'
    means = "".join(f'<td class="number">{number(value)}</td>' for value in mean_of(part))
    return (
        f'<tr><th scope="row">{escape(part["slice"])}</th><td class="number">{part["rows"]}</td>'
        f'<td class="share">{bar} {share(part, what)}</td>{means}</tr>'
    )


def _no_sample() -> str:
    return '<p class="quiet">It is the same model, or neither version has a golden sample to compare them on.</p>'
