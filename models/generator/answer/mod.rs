//! From the JSON that a generator answers to observations.
