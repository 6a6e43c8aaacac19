//! What fuzz targets begin with, those of other crates too: each writes its seeds before libFuzzer looks for them.

/// Writes the seeds, each a file, to the directory that `FERRY_FUZZ_SEEDS` names, if it names one.
pub fn plant(seeds: Vec<Vec<u8>>) {
    let Some(directory) = std::env::var_os("FERRY_FUZZ_SEEDS").map(std::path::PathBuf::from) else { return };
    for (number, seed) in seeds.into_iter().enumerate() {
        let path = directory.join(format!("seed-{number}"));
        std::fs::write(&path, seed).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}
