"""Turn the recipe into a sound track, frames, the truth about both, and the list of sources."""

import pathlib
import random
from collections.abc import Callable, Iterator

import licences
import numpy as np
import picture
import sound

Reader = Callable[[str], bytes]  # from "collection:path" to the bytes of a media file


def score(recipe: dict, read: Reader) -> tuple[np.ndarray, dict]:
    """Return the whole sound track, float32 [samples, 2] at 48 kHz, and the truth about shots and speech."""
    chance = random.Random(1)
    per_frame = sound.RATE // recipe["fps"]
    second = 1_000_000_000
    total = sum(shot["frames"] for shot in recipe["shots"])
    track = np.zeros((total * per_frame, 2), np.float32)
    truth = {"fps": recipe["fps"], "frames": total, "size": recipe["size"], "cuts": [], "shots": [], "speech": []}
    frame = 0
    for number, shot in enumerate(recipe["shots"]):
        start, end = frame * per_frame, (frame + shot["frames"]) * per_frame
        if recording := shot.get("sound"):
            samples = sound.decode(read(recording["file"]), recording["file"])
            samples = sound.level(samples[int(recording["from"] * sound.RATE) :], sound.ANIMAL_LEVEL)
            length = int(recording["until"] * sound.RATE) if "until" in recording else end - start
            room = length - int((sound.LEAD + sound.TAIL) * sound.RATE)
            take = sound.repeat(samples, room, recording.get("pause"), chance)
            sound.place(track, start + int(sound.LEAD * sound.RATE), take, 0.2 if number % 2 else -0.2)
        for at, line in shot.get("speech", []):
            samples = sound.fade(sound.level(sound.speak(line, recipe["voice"]), sound.VOICE_LEVEL))
            begin = start + int(at * sound.RATE)
            if begin + len(samples) > end:
                raise ValueError(f'recipe.json: "{line}" is longer than its shot; give the shot more frames')
            sound.place(track, begin, samples, 0)
            times = {"start_ns": begin * second // sound.RATE, "end_ns": (begin + len(samples)) * second // sound.RATE}
            truth["speech"].append(times | {"text": line})
        if frame:
            truth["cuts"].append(frame)
        times = {"start_ns": start * second // sound.RATE, "end_ns": end * second // sound.RATE}
        heard = recording["name"] if recording else None
        truth["shots"].append(times | {"photo": shot["photo"], "sound": heard, "accept": shot["accept"]})
        frame += shot["frames"]
    print(f"Sound: {total / recipe['fps']:.1f} s, {len(truth['speech'])} spoken lines")
    return track, truth


def pictures(recipe: dict, read: Reader) -> Iterator[bytes]:
    """Yield every frame of the video in turn."""
    for number, shot in enumerate(recipe["shots"], 1):
        print(f"Shot {number} of {len(recipe['shots'])}: {shot['photo']}", flush=True)
        yield from picture.frames(read(shot["file"]), shot["zoom"], shot["frames"], tuple(recipe["size"]))


def sources(recipe: dict, copyright_file: pathlib.Path) -> str:
    """Return the text of farm.sources.txt: one line for each photo, recording and voice."""
    lines = ["Sources of farm.mp4: files of the Debian package gcompris-qt-data, as its copyright file lists them.", ""]
    for shot in recipe["shots"]:
        for kind, file in (("photo", shot["file"]), ("recording", shot.get("sound", {}).get("file"))):
            if file:
                member = f"src/activities/{file.split(':')[1]}"
                lines.append(f"{shot['photo']}, {kind}: {member}: {licences.look_up(copyright_file, member)}")
    voice = recipe["voice"]["name"]
    lines.append(f"spoken lines: written for this project, spoken by the voice {voice} of the Debian package flite")
    return "\n".join(lines) + "\n"
