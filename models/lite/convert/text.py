"""On-screen text: the PP-OCRv6 small detector and recogniser of the RapidOCR wheel, as shipped.

text_keys.txt holds the recogniser's characters, line i (from 0) being class i + 1; class 0 is the CTC blank, the class after the last line is a space.
"""

from __future__ import annotations

import pathlib
import shutil

import onnx


def convert(sources: dict[str, pathlib.Path], out: pathlib.Path) -> None:
    """Copy both graphs and write the characters that the recogniser's metadata carries."""
    shutil.copyfile(sources["detect"], out / "text_detect.onnx")
    shutil.copyfile(sources["recognize"], out / "text_recognize.onnx")
    model = onnx.load(sources["recognize"], load_external_data=False)
    keys = next((entry.value for entry in model.metadata_props if entry.key == "character"), None)
    if keys is None:
        raise ValueError("the recogniser carries no `character` metadata; use the wheel version named in manifest.json")
    lines = keys.split("\n")
    classes = model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    if len(lines) + 2 != classes:
        raise ValueError(f"{len(lines)} characters do not fit {classes} classes; use the wheel version named in manifest.json")
    (out / "text_keys.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
