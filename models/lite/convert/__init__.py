"""One converter per piece of the pack; each has `convert(sources, out)` and needs numpy and onnx only."""
