//! Writes the inputs that a target begins with, each a file, to a directory.

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let mut words = std::env::args().skip(1);
    let (Some(target), Some(directory)) = (words.next(), words.next().map(PathBuf::from)) else {
        return Err(std::io::Error::other("usage: seeds TARGET DIRECTORY"));
    };
    for (number, seed) in ferry_images::fuzz::seeds(&target).into_iter().enumerate() {
        std::fs::write(directory.join(format!("seed-{number}")), seed)?;
    }
    Ok(())
}
