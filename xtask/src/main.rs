//! Everything a person or CI starts.
fn main() {}
