"""The documentation: it builds without a network, no link is broken, and it loads nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.support.jobs import environment
from tests.support.places import ROOT

JOBS = sorted(
    path.stem
    for package in ("spark_jobs", "mpi_jobs")
    for path in (ROOT / package).glob("*.py")
    if '__name__ == "__main__"' in path.read_text()
)


class Page(HTMLParser):
    """A page of the site.

    Attributes:
        ids: what a link may point to within it.
        links: where its links lead.
        loaded: what a browser fetches to show it.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value is not None}
        self.ids |= {values[name] for name in ("id", "name") if name in values and tag != "meta"}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if "src" in values:
            self.loaded.append(values["src"])
        if tag == "link" and values.get("rel") != "canonical" and "href" in values:
            self.loaded.append(values["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: a warning is an error."""
    if not (find_spec("mkdocs") and find_spec("material") and find_spec("mkdocstrings")):
        pytest.skip("mkdocs is not there: make docs brings it")
    folder = tmp_path_factory.mktemp("site")
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env=environment(NO_MKDOCS_2_WARNING="1", IMAGE_DATA_ROOT="/nowhere", PYTHONPATH=str(ROOT), **nowhere),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text()) for path in sorted(site.rglob("*.html"))}


@pytest.mark.slow
def test_no_link_and_no_anchor_leads_nowhere(site: Path, pages: dict[Path, Page]) -> None:
    checked = 0
    for path, page in pages.items():
        if path.name == "404.html":  # its addresses are those of a server's root
            continue
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{path.relative_to(site)}: {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].ids, f"{path.relative_to(site)}: {link}"
            checked += 1
    assert checked > 200


@pytest.mark.slow
def test_pages_load_nothing_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        for loaded in page.loaded:
            assert not urlsplit(loaded).netloc, f"{path.relative_to(site)}: {loaded}"
        assert 'class="mermaid"' not in path.read_text(), path  # whose script comes from a content network


@pytest.mark.slow
def test_the_flags_of_every_job_are_there(pages: dict[Path, Page], site: Path) -> None:
    path = site / "reference" / "flags.html"
    assert set(JOBS) <= pages[path].ids
    html = path.read_text()
    for flag in ("--lambdas", "--save-moments", "--strategy", "--tile", "--network", "--ratio", "--seconds"):
        assert flag in html
    assert "/nowhere" not in html  # defaults are those of any machine, not of the one that built the page


@pytest.mark.slow
def test_the_python_api_is_there(pages: dict[Path, Page], site: Path) -> None:
    ids = pages[site / "reference" / "api.html"].ids
    assert {
        "common.ridge.model.RidgeModel.load",
        "common.ridge.moments.Moments",
        "common.errors.InputError",
    } <= ids


MARKDOWN = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def links(path: Path) -> Iterator[str]:
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    yield from re.findall(r"\]\(([^)\s]+)\)", text)


def anchors(path: Path) -> set[str]:
    """The anchors of headings, as GitHub and mkdocs make them of plain words."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_between_files_work_in_the_checkout_as_well(path: Path) -> None:
    """README and pages are read without the site, too."""
    for link in links(path):
        parts = urlsplit(link)
        if parts.scheme:
            continue
        target = (path.parent / parts.path).resolve() if parts.path else path
        assert target.exists(), link
        generated = target.name in ("flags.md", "api.md")  # whose headings are made when the site is built
        if parts.fragment and target.suffix == ".md" and not generated:
            assert parts.fragment in anchors(target), link


def test_readme_is_short_and_every_page_can_be_reached_from_it() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        path = waiting.pop()
        if path in reached or path.suffix != ".md":
            continue
        reached.add(path)
        for link in links(path):
            parts = urlsplit(link)
            if parts.path and not parts.scheme:
                waiting.append((path.parent / parts.path).resolve())
    assert set((ROOT / "docs").rglob("*.md")) <= reached | {ROOT / "docs" / "index.md"}


PATH = re.compile(r"`((?:common|spark_jobs|mpi_jobs|emr|bench|tests|docs)/[\w./-]*)`")


@pytest.mark.parametrize("path", MARKDOWN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_that_a_page_names_are_there(path: Path) -> None:
    text = path.read_text()
    made = {"bench/results/", *re.findall(r'^```python title="(.*?)"', text, re.MULTILINE)}
    for name in set(PATH.findall(text)) - made:
        assert (ROOT / name).exists(), name


def test_tables_of_modules_are_complete() -> None:
    text = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
    tables = re.findall(r"^\| module of `([\w/]+)` \|.*\n\|---.*\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert tables
    for package, rows in tables:
        named = {name for row in rows.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])}
        there = {path.stem for path in (ROOT / package).glob("*.py")} - {"__init__"}
        assert named == there, package


def test_modules_that_the_changelog_moved_are_there() -> None:
    moves = re.findall(r"^\| `([\w.]+)` \| `([\w.]+)` \|$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert len(moves) > 50
    for old, new in moves:
        path = ROOT / new.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), new
        assert not (ROOT / f"{old.replace('.', '/')}.py").is_file(), old


def test_every_picture_is_shown_somewhere() -> None:
    shown = {(page.parent / link).resolve() for page in MARKDOWN for link in links(page)}
    pictures = [path for path in (ROOT / "docs").rglob("*") if path.suffix in (".png", ".svg")]
    assert set(pictures) <= shown
