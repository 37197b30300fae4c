//! Frames to pixels, as the processor files of a published model ask for them.
