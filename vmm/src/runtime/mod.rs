//! Containers as their users know them: what an image and its options make of a process, and what a run leaves behind.

pub mod capabilities;
pub mod command;
pub mod environment;
pub mod size;
