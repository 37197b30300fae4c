"""Look up who made a file of a Debian package, and under which licence."""

import fnmatch
import pathlib
import re

MAX_BYTES = 4 << 20
# The package holds pictures converted to WebP, its copyright file names the originals.
PICTURES = (".webp", ".jpg", ".jpeg", ".png")


def look_up(copyright_file: pathlib.Path, member: str) -> str:
    """Return one line on `member` (a path as in the package's source) from a machine-readable copyright file."""
    try:
        with copyright_file.open(encoding="utf-8", errors="replace") as file:
            text = file.read(MAX_BYTES)
    except OSError:
        return f"{copyright_file} is not installed: see the copyright file of the package"
    path = pathlib.PurePosixPath(member)
    names = {member} | ({str(path.with_suffix(end)) for end in PICTURES} if path.suffix in PICTURES else set())
    found = None
    for paragraph in re.split(r"\n\s*\n", text):
        fields = _fields(paragraph)
        patterns = fields.get("Files", "").split()
        if any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns):
            found = fields, patterns  # the last paragraph that matches is the one that counts
    if not found:
        return f"not listed in {copyright_file}"
    fields, patterns = found
    scope = " (the package's general entry)" if patterns == ["*"] else ""
    holders = fields.get("Copyright", "not stated").splitlines()
    if len(holders) > 4:
        holders[3:] = [f"and {len(holders) - 3} more in {copyright_file}"]
    comment = " ".join(fields.get("Comment", "").split())
    line = f"licence {' '.join(fields.get('License', 'not stated').split())}{scope}, copyright {'; '.join(holders)}"
    return f"{line}. {comment}" if comment else line


def _fields(paragraph: str) -> dict[str, str]:
    """Split one paragraph into its fields; lines that start with a space continue a field."""
    fields: dict[str, str] = {}
    name = ""
    for line in paragraph.splitlines():
        if line[:1] in (" ", "\t"):
            fields[name] = f"{fields.get(name, '')}\n{line.strip()}".strip()
        elif ":" in line:
            name, value = line.split(":", 1)
            fields[name] = value.strip()
    return fields
