"""Check images.json and sounds.json, the words that captions are made of.

Usage: python3 labels_check.py [FOLDER]    (default: the folder of this file)
Exit status 0 when both files are right, 1 with one line per fault otherwise.

images.json: 1000 classes in ImageNet-1k order, one a line.
  name     said as it stands after its article; wide enough to be true of what the class
           catches in practice (the only owl class is "owl", not "great gray owl")
  article  "a", "an", or "" for mass nouns and plurals
  group    key into groups, or null: members' probabilities add up to a surer, wider word

sounds.json: 521 classes in YAMNet order, one a line.
  label    AudioSet display name, exact
  name     noun phrase; clause: subject and verb, present tense, no final stop
  kind     one of SOUND_KINDS
  generic  true where the class says nothing on its own
  parents  labels to drop when this class is said, nearest first and complete. They follow
           the AudioSet ontology, with two changes: a parent that the clause does not imply
           is left out (a squeak need not be a door), and a bare sound that the clause does
           imply is put in (a bee that buzzes drops "something buzzes").
"""

import hashlib
import json
import re
import sys
from pathlib import Path

MAX_BYTES = 1 << 20  # both files together are under 200 kB

# Words whose first letter misleads about their first sound.
SOUNDS_LIKE_CONSONANT = {"one-piece", "ukulele", "unicycle"}
SOUNDS_LIKE_VOWEL = {"hourglass", "SLR"}

# Letters, inner apostrophes and hyphens, single spaces: nothing that could break a sentence.
WORDS = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*(?: [A-Za-z]+(?:['-][A-Za-z]+)*)*")

# ImageNet-1k class order, pinned at classes whose wording is the usual one.
IMAGE_CLASSES = 1000
IMAGE_ANCHORS = {
    0: "tench", 76: "tarantula", 107: "jellyfish", 207: "golden retriever", 291: "lion",
    340: "zebra", 404: "airliner", 463: "bucket", 555: "fire truck", 637: "mailbox",
    701: "parachute", 779: "school bus", 817: "sports car", 879: "umbrella", 920: "traffic light",
    954: "banana", 980: "volcano", 999: "roll of toilet paper",
}

# AudioSet display names in YAMNet order (yamnet_class_map.csv), joined by newlines, SHA-256.
SOUND_CLASSES = 521
SOUND_LABELS_SHA256 = "16407690f6cf6da15545f245863b6a7059ef931f803a0834b8a7205bb01ccfa2"
SOUND_KINDS = {
    "speech", "music", "animal", "human", "nature", "vehicle",
    "machine", "alarm", "room", "silence", "other",
}


def article_for(words):
    """Return "a" or "an" for a phrase, by the sound of its first word."""
    first = words.split()[0]
    if first in SOUNDS_LIKE_CONSONANT:
        return "a"
    if first in SOUNDS_LIKE_VOWEL:
        return "an"
    return "an" if first[0].lower() in "aeiou" else "a"


def article_faults(words, article):
    """Yield a fault if `article` is neither empty (mass nouns, plurals) nor the right one."""
    if article and article != article_for(words):
        yield f'"{article} {words}" should be "{article_for(words)} {words}"'


def word_faults(words):
    """Yield a fault if a phrase has anything but plain words in it."""
    if not WORDS.fullmatch(words):
        yield f'"{words}" may hold only letters, inner apostrophes or hyphens, and single spaces'


def repeats(values):
    """Yield each value that was already seen, in order."""
    seen = set()
    for value in values:
        if value in seen:
            yield value
        seen.add(value)


def shape_faults(entries, fields):
    """Yield a fault for each entry that has not exactly these fields of these types."""
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or entry.keys() != fields.keys():
            yield f"class {index} must have exactly the fields {', '.join(fields)}"
        else:
            for field, kinds in fields.items():
                value = entry[field]
                texts = value if isinstance(value, list) else []
                if not isinstance(value, kinds) or not all(isinstance(text, str) for text in texts):
                    yield f"class {index}: {field} has the wrong type"


def image_faults(data):
    """Yield the faults of images.json: {"groups": {key: {...}}, "classes": [1000 x {...}]}."""
    classes, groups = data["classes"], data["groups"]
    if len(classes) != IMAGE_CLASSES:
        yield f"{len(classes)} classes instead of {IMAGE_CLASSES}"
    shape = list(shape_faults(classes, {"name": str, "article": str, "group": (str, type(None))}))
    shape += [
        f'group "{key}" must have exactly the text fields article, phrase'
        for key, group in groups.items()
        if group.keys() != {"article", "phrase"} or not all(isinstance(v, str) for v in group.values())
    ]
    if shape:
        yield from shape
        return

    for index, name in IMAGE_ANCHORS.items():
        if index < len(classes) and classes[index]["name"] != name:
            yield f'class {index} is "{classes[index]["name"]}" but should be "{name}": order lost?'
    for name in repeats(entry["name"] for entry in classes):
        yield f'the name "{name}" is used twice'
    for phrase in repeats(group["phrase"] for group in groups.values()):
        yield f'the group phrase "{phrase}" is used twice'

    named = [(entry["name"], entry["article"]) for entry in classes]
    named += [(group["phrase"], group["article"]) for group in groups.values()]
    for words, article in named:
        faults = list(word_faults(words))
        yield from faults or article_faults(words, article)

    used = [entry["group"] for entry in classes if entry["group"] is not None]
    for group in sorted(set(used) - groups.keys()):
        yield f'the group "{group}" is used but not listed in groups'
    for group in groups:
        if used.count(group) < 2:
            yield f'the group "{group}" needs two classes to be worth a sum'


def parent_faults(classes):
    """Yield the faults of the parent lists: complete, nearest first, free of cycles."""
    parents = {entry["label"]: entry["parents"] for entry in classes}
    for label, above in parents.items():
        unknown = [parent for parent in above if parent not in parents]
        for parent in unknown:
            yield f'"{label}" has the unknown parent "{parent}"'
        for parent in repeats(above):
            yield f'"{label}" lists the parent "{parent}" twice'
        if label in above:
            yield f'"{label}" is its own parent'
        for place, parent in enumerate(above):
            for higher in parents.get(parent, []):
                if higher == label:
                    yield f'"{label}" and "{parent}" are parents of each other'
                elif higher not in above[place + 1:]:
                    yield f'"{label}" must list "{higher}" after "{parent}"'


def clause_faults(classes):
    """Yield the faults of the clauses; two classes may share one only if one is above the other."""
    first = {}
    for entry in classes:
        clause, label = entry["clause"], entry["label"]
        faults = list(word_faults(clause))
        yield from faults
        if faults:
            continue
        words = clause.split()
        if len(words) < 2:
            yield f'the clause "{clause}" of "{label}" lacks a subject or a verb'
        for article, following in zip(words, words[1:]):
            # "a cappella" is Italian, not an article with its noun.
            if article in ("a", "an") and following != "cappella":
                yield from article_faults(following, article)
        for other in first.setdefault(clause, []):
            if label not in other["parents"] and other["label"] not in entry["parents"]:
                yield f'"{label}" and "{other["label"]}" share the clause "{clause}"'
        first[clause].append(entry)


def sound_faults(data):
    """Yield the faults of sounds.json: {"classes": [521 x {...}]}."""
    classes = data["classes"]
    if len(classes) != SOUND_CLASSES:
        yield f"{len(classes)} classes instead of {SOUND_CLASSES}"
    fields = {"label": str, "name": str, "clause": str, "kind": str, "generic": bool, "parents": list}
    shape = list(shape_faults(classes, fields))
    if shape:
        yield from shape
        return

    labels = "\n".join(entry["label"] for entry in classes)
    if hashlib.sha256(labels.encode()).hexdigest() != SOUND_LABELS_SHA256:
        yield "the labels or their order differ from the YAMNet class map: restore them"
    for name in repeats(entry["name"] for entry in classes):
        yield f'the name "{name}" is used twice'
    for entry in classes:
        yield from word_faults(entry["name"])
        if entry["kind"] not in SOUND_KINDS:
            yield f'"{entry["label"]}" has the unknown kind "{entry["kind"]}"'
    yield from parent_faults(classes)
    yield from clause_faults(classes)


def load(path):
    """Read one JSON file of at most MAX_BYTES; ValueError or OSError say what is wrong."""
    with path.open("rb") as file:
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES} bytes")
    return json.loads(raw)


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    failed = False
    for file, check in (("images.json", image_faults), ("sounds.json", sound_faults)):
        try:
            data = load(folder / file)
            faults = list(check(data))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            faults = [f"cannot be read as a label file ({type(error).__name__}: {error})"]
        for fault in faults:
            print(f"{file}: {fault}", file=sys.stderr)
        if faults:
            print(f"{file}: {len(faults)} faults; correct the lines named above", file=sys.stderr)
            failed = True
        else:
            print(f"{file}: {len(data['classes'])} classes right")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
