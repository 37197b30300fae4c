//! The element under a harness: no pack, no clock but the test's, no waiting.

mod bench;
mod failure;
mod flow;
mod live;
