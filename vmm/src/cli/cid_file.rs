//! `--cidfile`: the file that a container's id is written to, for scripts.

use crate::runtime::record::Record;
use crate::runtime::supervise::Failure;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Mutex;

/// The file, which was not there before. It goes away again if there is no container.
pub struct CidFile {
    path: PathBuf,
    /// Until it has been written.
    file: Mutex<Option<File>>,
}

impl CidFile {
    /// Makes it, empty.
    pub fn create(path: PathBuf) -> Result<Self, Failure> {
        match File::create_new(&path) {
            Ok(file) => Ok(Self { path, file: Mutex::new(Some(file)) }),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let shown = path.display();
                Err(Failure::early(format!(
                    "--cidfile {shown}: it is there already: remove it, or name another"
                )))
            }
            Err(error) => Err(Failure::early(format!("--cidfile {}: {error}", path.display()))),
        }
    }

    /// Writes the id of the first of these containers.
    pub fn write(&self, records: &[Record]) {
        let file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let (Some(mut file), Some(record)) = (file, records.first())
            && let Err(error) = file.write_all(record.id.as_bytes())
        {
            tracing::warn!(path = %self.path.display(), %error, "the container's id cannot be written");
        }
    }
}

impl Drop for CidFile {
    fn drop(&mut self) {
        if self.file.get_mut().is_ok_and(|file| file.is_some()) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::record::Made;

    #[test]
    fn it_has_the_id_or_is_not_there_and_nothing_is_overwritten() {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("id");
        drop(CidFile::create(path.clone()).unwrap());
        assert!(!path.exists());
        let file = CidFile::create(path.clone()).unwrap();
        file.write(&[Record::new("0123", "web", Made::default())]);
        file.write(&[Record::new("4567", "web", Made::default())]);
        drop(file);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "0123");
        assert!(CidFile::create(path).err().unwrap().message.contains("it is there already"));
    }
}
