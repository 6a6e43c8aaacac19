//! Layers by hand, one step a call: what `cargo xtask bench images` times beside other programs, and a small example of
//! the library's use.
//!
//! ```text
//! layer discard FILE            decompresses, and throws away what comes
//! layer convert FILE OUT        makes an EROFS image, prints both digests
//! layer join OUT LAYER...       makes the metadata image over layers, the lowest first
//! layer seal IMAGE HASHES       writes the dm-verity hash area, prints the root digest
//! ```

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::process::ExitCode;

use ferry_images::digest::Digest;
use ferry_images::layer::{self, Limits};
use ferry_images::{join, verity};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("layer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<(), Box<dyn Error>> {
    match words {
        ["discard", file] => {
            println!("{} bytes", layer::discard(File::open(file)?)?);
        }
        ["convert", file, out] => {
            let (packed, scratch) = (File::open(file)?, scratch(out)?);
            let unpacked = layer::convert_packed(packed, &create(out)?, &scratch, &Limits::default())?;
            let layer = unpacked.converted?;
            println!("{} {} {} bytes", unpacked.packed, unpacked.plain, layer.bytes);
        }
        ["join", out, layers @ ..] => {
            let layers = layers.iter().map(File::open).collect::<Result<Vec<_>, _>>()?;
            println!("{} inodes", join::join(&layers, &create(out)?, &scratch(out)?)?.inodes);
        }
        ["seal", image, hashes] => {
            let salt = verity::Salt::from(Digest::of_file(image.as_ref())?);
            println!("{}", verity::seal(&File::open(image)?, salt, &create(hashes)?, 0)?.root);
        }
        _ => return Err("discard FILE | convert FILE OUT | join OUT LAYER... | seal IMAGE HASHES".into()),
    }
    Ok(())
}

fn create(path: &str) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)
}

/// A file without a name on the disk that `path` is on.
fn scratch(path: &str) -> std::io::Result<File> {
    let directory = std::path::Path::new(path).parent().filter(|parent| !parent.as_os_str().is_empty());
    tempfile::tempfile_in(directory.unwrap_or(".".as_ref()))
}
