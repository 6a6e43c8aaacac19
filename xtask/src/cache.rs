//! Where things that are made once are kept: outside the checkout, keyed by what they were made from.
//!
//! `$FERRY_CACHE`, or else `$XDG_CACHE_HOME/ferry`, or else `~/.cache/ferry`. An entry is a directory that appears
//! whole or not at all: it is filled under another name and renamed when it is complete, so an interrupted build
//! leaves nothing that looks finished, and two builds at once cannot mix.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// The cache directory.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The cache of this user, made if need be.
    pub fn open() -> Result<Cache> {
        let root = root_from(|name| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from))
            .context("no home for the cache: set FERRY_CACHE, XDG_CACHE_HOME or HOME")?;
        fs::create_dir_all(&root).with_context(|| format!("cannot make the cache {}", root.display()))?;
        let root = root.canonicalize()?;
        Ok(Cache { root })
    }

    /// The cache's own directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A directory of this name for things that manage themselves (downloads, a build tree); made if need be.
    pub fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.root.join(name);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(dir)
    }

    /// Where the finished entry `key` of `kind` is, or will be: `KIND/KEY`.
    pub fn entry(&self, kind: &str, key: &str) -> PathBuf {
        self.root.join(kind).join(key)
    }

    /// The finished entry, made by `fill` in a fresh directory if it is not there yet.
    pub fn get_or_make(
        &self,
        kind: &str,
        key: &str,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let entry = self.entry(kind, key);
        let _one_at_a_time = self.lock(&format!("{kind}-{key}"))?;
        if entry.exists() {
            return Ok(entry);
        }
        let unfinished = self.root.join(kind).join(format!(".{key}.unfinished"));
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        fs::create_dir_all(&unfinished).with_context(|| format!("cannot make {}", unfinished.display()))?;
        fill(&unfinished)?;
        fs::rename(&unfinished, &entry)
            .with_context(|| format!("cannot move {} into its place", unfinished.display()))?;
        Ok(entry)
    }

    /// Holds the lock of this name until the result is dropped; waits for another process that has it.
    pub fn lock(&self, name: &str) -> Result<File> {
        let path = self.dir("locks")?.join(name.replace('/', "-"));
        let file = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(file)
    }
}

fn root_from(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    variable("FERRY_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|dir| dir.join("ferry")))
        .or_else(|| variable("HOME").map(|dir| dir.join(".cache/ferry")))
}

/// A key made from the content of everything that goes into an entry.
#[derive(Clone, Default)]
pub struct Key(Sha256);

impl Key {
    /// Adds a named piece of content.
    pub fn add(&mut self, name: &str, content: &[u8]) -> &mut Key {
        // Lengths first, so that moving a byte from one piece to the next gives another key.
        self.0.update((name.len() as u64).to_le_bytes());
        self.0.update(name);
        self.0.update((content.len() as u64).to_le_bytes());
        self.0.update(content);
        self
    }

    /// The key as a short name: 96 bits in hexadecimal.
    pub fn finish(&self) -> String {
        self.0.clone().finalize().iter().take(12).map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache { root: dir.path().to_owned() };
        (dir, cache)
    }

    #[test]
    fn the_override_wins_over_xdg_and_home() {
        let all = |name: &str| Some(PathBuf::from(format!("/{name}")));
        assert_eq!(root_from(all), Some(PathBuf::from("/FERRY_CACHE")));
        let xdg = |name: &str| all(name).filter(|_| name != "FERRY_CACHE");
        assert_eq!(root_from(xdg), Some(PathBuf::from("/XDG_CACHE_HOME/ferry")));
        let home = |name: &str| all(name).filter(|_| name == "HOME");
        assert_eq!(root_from(home), Some(PathBuf::from("/HOME/.cache/ferry")));
    }

    #[test]
    fn an_entry_that_failed_to_fill_is_not_there_and_is_filled_again() {
        let (_dir, cache) = cache();
        let failed = cache.get_or_make("thing", "k", |dir| {
            fs::write(dir.join("half"), "")?;
            anyhow::bail!("interrupted")
        });
        assert!(failed.is_err());
        assert!(!cache.entry("thing", "k").exists());
        let made = cache.get_or_make("thing", "k", |dir| Ok(fs::write(dir.join("whole"), "")?)).unwrap();
        assert!(made.join("whole").exists());
        assert!(!made.join("half").exists());
    }

    #[test]
    fn a_finished_entry_is_not_made_again() {
        let (_dir, cache) = cache();
        cache.get_or_make("thing", "k", |_| Ok(())).unwrap();
        cache.get_or_make("thing", "k", |_| panic!("made twice")).unwrap();
    }

    #[test]
    fn keys_tell_where_one_piece_ends() {
        let one = Key::default().add("a", b"bc").finish();
        let two = Key::default().add("ab", b"c").finish();
        assert_ne!(one, two);
        assert_eq!(one.len(), 24);
    }
}
