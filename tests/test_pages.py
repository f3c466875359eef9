"""The pages: links lead somewhere, commands are the command line's, figures say one thing."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from perfmodel.cli import app
from validate import front_page

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") or part == "out" for part in path.relative_to(ROOT).parts)
)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


ANCHOR = re.compile(r"\]\(([^)#\s]*)#([^)\s]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_inside_the_project_lead_somewhere(page):
    targets = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in targets if not (page.parent / link).exists()] == []


def anchors(page):
    """What headings of a page are called in links, as GitHub makes it of their words."""
    text = re.sub(r"^(```|~~~).*?^\1", "", page.read_text(), flags=re.M | re.S)
    heads = [re.sub(r"[`*]", "", head) for head in re.findall(r"^#+ (.+)$", text, re.M)]
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_a_heading_name_one(page):
    links = [link for link in ANCHOR.findall(page.read_text()) if "://" not in link[0]]
    lost = [
        (to, name) for to, name in links if name not in anchors((page.parent / to) if to else page)
    ]
    assert lost == []


def test_the_front_page_quotes_the_accuracy_page_word_for_word():
    known = (ROOT / "docs/accuracy/README.md").read_text().splitlines()
    front = (ROOT / "README.md").read_text().split("## How wrong it is")[1]
    rows = [line for line in front.splitlines() if line.startswith("|")]
    assert len(rows) > 10
    assert [row for row in rows if row not in known] == []


def test_the_front_pages_say_what_the_stored_predictions_say():
    told = front_page.expected()
    for page in front_page.PAGES:
        text = page.read_text()
        assert front_page.corrected(text, told) == (text, [])
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert sum(any(row.startswith(f"| {label}") for label in told) for row in rows) > 15
    lines = front_page.PAGES[0].read_text().splitlines()
    lost = [one for one in told if not any(line.startswith(f"| {one}") for line in lines)]
    assert lost == []  # a row that was renamed would keep the figures that it had


def test_a_wrong_figure_on_the_front_page_is_put_right():
    told = {"models": ("12", "3.4 %", "5 %")}
    page = "| what | points |\n| models | 11 | 3.4 % | 5 % | a remark |\n"
    right, changed = front_page.corrected(page, told)
    assert right == "| what | points |\n| models | 12 | 3.4 % | 5 % | a remark |\n"
    assert changed == ["| models | 12 | 3.4 % | 5 % | a remark |"]


def _commands():
    """Every ``perfmodel VERB ...`` of a code block or of code in a line, with its page."""
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for command in re.findall(r"(?:^ *|`)perfmodel ([a-z].*?)(?:`|  +#|$)", text, re.M):
            yield page, command


def test_the_pages_name_options_that_exist():
    verbs = typer.main.get_command(app).commands
    checked = 0
    for page, command in _commands():
        words = shlex.split(command, comments=True)
        verb = verbs.get(words[0]) if words else None
        if verb is None:
            assert not any(word.startswith("--") for word in words), (page.name, command)
            continue
        if hasattr(verb, "commands") and len(words) > 1 and words[1] in verb.commands:
            verb = verb.commands[words[1]]
        known = {name for param in verb.params for name in param.opts} | {"--help"}
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert given <= known, (page.name, command)
        checked += 1
    assert checked > 20
