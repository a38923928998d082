"""``python -m docs.generator``: write every generated file, and say which ones changed."""

from pathlib import Path

from docs.generator import pages

DOCS = Path(__file__).resolve().parents[1]

for name, text in pages().items():
    file = DOCS / name
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        print(f"docs/{name} written")
