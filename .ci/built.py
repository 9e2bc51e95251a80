"""Checks the built wheel and sdist, and prints their version.

    python .ci/built.py FOLDER [TAG]

The version is the same in all places, and so is its date. The wheel holds the package and nothing
else. The page of the package index, which is the README changed by pyproject.toml, has no checkout
beside it: each of its links and pictures is an address of this version's tag, at which there is
such a file, and such a heading.
"""

import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

ROOT = Path(__file__).parents[1]
OURS = re.compile(
    r"https://(?:github\.com/dbloss/dbloss/blob|raw\.githubusercontent\.com/dbloss/dbloss)/(.*)"
)
OTHERS = ("https://dbloss.github.io/", "https://www.paddlepaddle.org.cn/")


def main(folder: str, tag: str | None = None) -> None:
    """Check the two files in a folder; the first fault ends it."""
    (wheel,), (sdist,) = Path(folder).glob("*.whl"), Path(folder).glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as built:
        names = built.namelist()
        (name,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(built.read(name))
    version = metadata["Version"]
    others = [name for name in names if not re.match(r"dbloss(-[^/]*\.dist-info)?/", name)]
    assert not others, f"the wheel holds more than the package: {others}"
    with tarfile.open(sdist) as built:
        page = built.extractfile(f"dbloss-{version}/PKG-INFO")
        assert page is not None
        of_sdist = message_from_bytes(page.read())
    assert of_sdist.get_payload() == metadata.get_payload(), "the files describe themselves apart"
    check_versions({"the wheel": version, "the sdist": of_sdist["Version"], "the tag": tag})
    check_page(metadata.get_payload(decode=True).decode("utf-8"), version)
    print(version)


def check_versions(versions: dict[str, str | None]) -> None:
    """Check that the files of the checkout state this version, and one date."""
    citation, changelog = (
        (ROOT / name).read_text("utf-8") for name in ("CITATION.cff", "CHANGELOG.md")
    )
    newest, date = re.findall(r"^## \[(.*)\] - (.*)$", changelog, re.MULTILINE)[0]
    versions["CHANGELOG.md"] = newest
    versions["CITATION.cff"] = re.findall(r"^version: (.*)$", citation, re.MULTILINE)[0]
    source = (ROOT / "dbloss" / "__init__.py").read_text("utf-8")
    versions["dbloss/__init__.py"] = re.findall(r'^__version__ = "(.*)"$', source, re.MULTILINE)[0]
    stated = {version.removeprefix("v") for version in versions.values() if version}
    assert len(stated) == 1, f"versions differ: {versions}"
    assert f'date-released: "{date}"' in citation, f"CITATION.cff has another date than {date}"
    assert f"\n[{newest}]: " in changelog, f"CHANGELOG.md: [{newest}] leads nowhere"


def check_page(page: str, version: str) -> None:
    """Check what the page of the package index speaks of."""
    checkout = re.findall(r".*(?:\.\[|install \.|checkout|python examples).*", page)
    assert not checkout, f"the page speaks of a checkout: {checkout}"
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = tracked.stdout.splitlines()
    for link in re.findall(r"\]\((.*?)\)", page):
        ours = OURS.fullmatch(link)
        if ours is None:
            assert link.startswith(OTHERS), f"the page leads to {link}"
            continue
        tag, _, path = ours[1].partition("/")
        path, _, anchor = path.partition("#")
        assert tag == f"v{version}", f"not at the tag of {version}: {link}"
        assert path in files, f"no such file: {link}"
        assert not anchor or anchor in anchors(ROOT / path), f"no such heading: {link}"


def anchors(page: Path) -> list[str]:
    """Return the anchors that GitHub gives the headings of a page, and those it has itself."""
    text = page.read_text("utf-8")
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    made = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    return made + re.findall(r'<a id="(.*?)"', text)


if __name__ == "__main__":
    main(*sys.argv[1:])
