"""The fleet page's files, without a browser: what is not ours is what its authors published, and nothing comes from elsewhere."""

import base64
import hashlib
import json
import re
from pathlib import Path

import gatewayd

PAGE = Path(gatewayd.__file__).parent / "page"
VENDOR = PAGE / "vendor"


def integrity(file):
    return f"sha256-{base64.b64encode(hashlib.sha256(file.read_bytes()).digest()).decode()}"


def test_the_libraries_are_what_their_authors_published():
    lock = json.loads((VENDOR / "lock.json").read_text())
    locked = {f"{name}/{file}": known for name, library in lock.items() for file, known in library["files"].items()}
    found = {file.relative_to(VENDOR).as_posix(): integrity(file) for file in VENDOR.rglob("*") if file.is_file()}
    assert found.pop("lock.json")
    assert found == locked
    assert all(f"{name}/LICENSE" in locked for name in lock)


def test_our_own_files_load_nothing_from_elsewhere_and_make_no_html_of_data():
    ours = [file for file in PAGE.rglob("*") if file.is_file() and VENDOR not in file.parents]
    assert len(ours) > 20
    for file in ours:
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|innerHTML|insertAdjacentHTML|document\.write|\beval\b|unsafeHTML", text), file
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script>", (PAGE / "index.html").read_text())
