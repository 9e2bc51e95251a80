"""The site builds without a warning, draws its formulas, and takes nothing from another host."""

import functools
import html as html_module
import json
import re
import shutil
import subprocess
import threading
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import programs
import pytest

pytest.importorskip("mkdocs", reason="needs pip install --group docs")

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    page.relative_to(DOCS).with_suffix("").as_posix()
    for page in [*DOCS.glob("*.md"), *DOCS.glob("zh/*.md")]
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    build = programs.run("-m", "mkdocs", "build", "--strict", "--site-dir", folder, cwd=ROOT)
    assert build.returncode == 0, build.stderr
    return folder


def folder_of(site, page):
    return site / page.removesuffix("index")


def html(site, page):
    return (folder_of(site, page) / "index.html").read_text("utf-8")


class Fetched(HTMLParser):
    """Collects what a browser fetches by itself when it opens a page."""

    def __init__(self, text):
        super().__init__()
        self.urls = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.urls += [attrs[key] for key in ("src", "srcset", "poster", "data") if key in attrs]
        if tag == "link" and attrs.get("rel") not in ("canonical", "next", "prev"):
            self.urls.append(attrs["href"])


def test_nothing_comes_from_another_host(site):
    files = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(files) > len(PAGES)
    for file in files:
        text = file.read_text("utf-8")
        urls = re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')]+)", text)
        urls += Fetched(text).urls if file.suffix == ".html" else []
        assert urls or file.suffix == ".css"
        # The theme's script asks the host of the repository for its numbers where it finds this.
        assert 'data-md-component="source"' not in text, file
        foreign = [url for url in urls if re.match(r"([a-z]+:)?//", url)]
        assert not foreign, (file, foreign)


@pytest.mark.parametrize("page", PAGES)
def test_formulas_are_drawn_without_a_script(site, page):
    source = (ROOT / "docs" / f"{page}.md").read_text("utf-8")
    built = html(site, page)
    formulas = re.findall(r"\$\$.+?\$\$|\$[^$\n]+\$", source, re.DOTALL)
    assert built.count("<math") == len(formulas)
    assert not re.search(r"arithmatex|\\[(\[]", built)
    assert bool(formulas) == (page in ("mathematics", "numerics"))


def test_examples_are_shown_as_code(site):
    built = html(site, "api")
    assert 'class="gp">&gt;&gt;&gt;' in built  # a prompt
    assert "<blockquote>" not in built  # what Markdown makes of three prompts in plain text


@pytest.mark.parametrize("page", PAGES)
def test_pictures_are_there(site, page):
    source = (ROOT / "docs" / f"{page}.md").read_text("utf-8")
    for included in re.findall(r'include-markdown "[./]+(.+?)"', source):
        source += (ROOT / included).read_text("utf-8")
    names = re.findall(r"!\[.*?\]\((?:docs/)?(.+?)\)", source)
    folder = folder_of(site, page)
    shown = [url for url in Fetched(html(site, page)).urls if url.endswith(tuple(names or "?"))]
    assert len(shown) == len(names)
    assert all((folder / url).is_file() for url in shown)


def test_the_style_and_its_font_are_there(site):
    """The font draws the formulas, its licence is beside it, and no page goes without the style."""
    style = site / "site" / "site.css"
    fonts = re.findall(r"url\(\"(.+?)\"\)", style.read_text("utf-8"))
    assert len(fonts) == 1
    for font in fonts:
        assert (style.parent / font).read_bytes()[:4] == b"wOF2"
        assert "SIL OPEN FONT LICENSE" in (style.parent / font).with_name("OFL.txt").read_text()
    for page in PAGES:
        assert any(url.endswith("site/site.css") for url in Fetched(html(site, page)).urls), page


def test_messages_are_broken_and_tables_scrolled(site):
    """The style goes by the language of a block: `text` is kept in its lines on a phone."""
    built = html(site, "errors") + html(site, "troubleshooting")
    assert "language-output highlight" in built
    kept = re.findall(r"language-text highlight.*?</pre>", built, re.DOTALL)
    assert kept and all("Error" not in re.sub("<.*?>", "", block) for block in kept)


def test_the_search_finds_words_within_chinese_text(site):
    """The theme parts texts and queries by this expression, and looks for the parts."""
    index = json.loads((site / "search" / "search_index.json").read_text("utf-8"))
    parts = re.split(index["config"]["separator"], "在 CPU 上（fused）会因段错误退出。")
    assert [part for part in parts if part] == [*"在", "CPU", *"上", "fused", *"会因段错误退出"]
    found = [entry["location"] for entry in index["docs"] if "段错误" in entry["text"]]
    assert any(location.startswith("zh/troubleshooting/#") for location in found)


class Labels(HTMLParser):
    """Collects what the theme says by itself, what its script shows, and where its list begins."""

    def __init__(self, text):
        super().__init__()
        self.language, self.labels = "", []
        self.feed(text)
        config = re.search(r'<script id="__config".*?>(.*?)</script>', text, re.DOTALL)[1]
        self.labels += filter(None, json.loads(config)["translations"].values())
        self.labels += re.findall(r'md-nav__title" for="__toc">\s*<span.*?</span>\s*(.+)', text)
        self.labels += re.findall(r"(\S.*)\s+<a href=.+?mkdocs-material", text)
        self.labels += re.findall(r'md-search-result__meta">\s*(.+)', text)
        entries = text[text.index("md-nav--primary") :]
        self.labels.append(re.search(r'__list.*?md-ellipsis">\s*(.+?)\n', entries, re.DOTALL)[1])

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.language = attrs["lang"] if tag == "html" else self.language
        names = ("title", "aria-label", "placeholder")
        self.labels += [attrs[name] for name in names if name in attrs]
        if tag == "meta" and attrs.get("name") == "description":
            self.labels.append(attrs["content"])


@pytest.mark.parametrize("page", PAGES)
def test_the_theme_speaks_the_language_of_the_page(site, page):
    said = Labels(html(site, page))
    chinese = page.startswith("zh/")
    assert said.language == ("zh" if chinese else "en")
    labels = set(said.labels) - {"dbloss"}
    assert len(labels) > 10
    assert not [text for text in labels if bool(re.search("[\u4e00-\u9fff]", text)) != chinese]


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
WIDTHS = (1280, 390)
# Each page in a frame of each width. What is wider than the column it stands in is written out,
# and so is what is cut off or scrolled within it.
MEASURE = """
<!doctype html><body><pre id="found"></pre><script>
onload = () => {
  const found = []
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument
    const column = page.querySelector(".md-content__inner").getBoundingClientRect()
    const blocks = page.querySelectorAll(".md-content :is(table, pre, pre > code, img)")
    found.push({ page: frame.name, blocks: blocks.length, width: frame.contentWindow.innerWidth })
    for (const block of blocks) {
      const box = block.getBoundingClientRect()
      const over = Math.max(box.right - column.right, block.scrollWidth - block.clientWidth)
      if (over > 1 && !block.matches("img, table") || box.right - column.right > 1)
        found.push({ page: frame.name, over, block: block.textContent.trim().slice(0, 60) })
    }
    if (page.documentElement.scrollWidth > frame.contentWindow.innerWidth)
      found.push({ page: frame.name, block: "the page" })
  }
  document.getElementById("found").textContent = JSON.stringify(found)
}
</script>
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def measured(site):
    if CHROMIUM is None:
        pytest.skip("needs a browser: apt-get install chromium")
    frames = "".join(
        f'<iframe name="{page} {width}" src="/{page.removesuffix("index")}"'
        f' style="width: {width}px; height: 800px; border: 0"></iframe>'
        for page in PAGES
        for width in WIDTHS
    )
    (site / "measure.html").write_text(MEASURE + frames, "utf-8")
    handler = functools.partial(Quiet, directory=site)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/measure.html"
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        dumped = subprocess.run(
            [CHROMIUM, *options, address], capture_output=True, text=True, timeout=300
        ).stdout
        server.shutdown()
    (site / "measure.html").unlink()
    (text,) = re.findall(r'<pre id="found">(.*?)</pre>', dumped, re.DOTALL)
    return json.loads(html_module.unescape(text))


def test_no_table_and_no_block_is_wider_than_its_column(measured):
    """In a browser, on every page, on a screen and on a phone."""
    looked_at = [entry for entry in measured if "blocks" in entry]
    assert {(entry["page"], entry["width"]) for entry in looked_at} == {
        (f"{page} {width}", width) for page in PAGES for width in WIDTHS
    }
    assert sum(entry["blocks"] for entry in looked_at) > 100 * len(WIDTHS)
    assert not [entry for entry in measured if "block" in entry]
