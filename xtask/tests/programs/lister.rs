//! Lists a tree, one line an entry, with everything that a layer can say about it: the tests run this one program over
//! what an independent unpacker made and inside the guest, and compare what it prints.
//!
//! Built by the tests as a static program, so that it runs in any image.

use std::ffi::{CString, OsStr, c_char, c_void};
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

unsafe extern "C" {
    fn llistxattr(path: *const c_char, list: *mut c_char, size: usize) -> isize;
    fn lgetxattr(path: *const c_char, name: *const c_char, value: *mut c_void, size: usize) -> isize;
}

fn main() {
    let root = std::env::args_os().nth(1).expect("usage: lister DIRECTORY");
    list(Path::new(&root), Path::new(""));
}

fn list(root: &Path, relative: &Path) {
    let path = root.join(relative);
    match describe(&path) {
        Ok(line) => println!("{} {line}", escaped(relative.as_os_str().as_bytes())),
        Err(error) => println!("{} {error}", escaped(relative.as_os_str().as_bytes())),
    }
    if fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir()) {
        let mut names: Vec<_> = fs::read_dir(&path).expect("a directory").flatten().map(|e| e.file_name()).collect();
        names.sort();
        names.iter().for_each(|name| list(root, &relative.join(name)));
    }
}

fn describe(path: &Path) -> io::Result<String> {
    let meta = fs::symlink_metadata(path)?;
    let kind = meta.file_type();
    let mut line = format!("{:o} {}:{} {}.{:09}", meta.mode(), meta.uid(), meta.gid(), meta.mtime(), meta.mtime_nsec());
    // Sizes and link counts of directories are a file system's own business.
    if !kind.is_dir() {
        line += &format!(" links={} size={}", meta.nlink(), meta.size());
    }
    if kind.is_block_device() || kind.is_char_device() {
        line += &format!(" device={:#x}", meta.rdev());
    }
    if kind.is_symlink() {
        line += &format!(" -> {}", escaped(fs::read_link(path)?.as_os_str().as_bytes()));
    }
    if kind.is_file() {
        line += &format!(" {:016x}", hash(path)?);
    }
    for (name, value) in xattrs(path)? {
        line += &format!(" {}={}", escaped(&name), escaped(&value));
    }
    Ok(line)
}

/// FNV-1a of the contents: this compares honest trees, nothing more is needed.
fn hash(path: &Path) -> io::Result<u64> {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut file = fs::File::open(path)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(hash);
        }
        for byte in &buffer[..read] {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

fn xattrs(path: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let c_path = CString::new(path.as_os_str().as_bytes())?;
    let mut names = vec![0_u8; 1 << 16];
    // SAFETY: the path is terminated and the buffer as long as we say.
    let length = unsafe { llistxattr(c_path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    if length < 0 {
        let error = io::Error::last_os_error();
        // A file system without any.
        return if error.raw_os_error() == Some(95) { Ok(Vec::new()) } else { Err(error) };
    }
    let mut all = Vec::new();
    for name in names[..length as usize].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let c_name = CString::new(name)?;
        let mut value = vec![0_u8; 1 << 16];
        // SAFETY: both names are terminated and the buffer as long as we say.
        let length =
            unsafe { lgetxattr(c_path.as_ptr(), c_name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        if length < 0 {
            return Err(io::Error::last_os_error());
        }
        value.truncate(length as usize);
        all.push((name.to_vec(), value));
    }
    all.sort();
    Ok(all)
}

fn escaped(bytes: &[u8]) -> String {
    OsStr::from_bytes(bytes).as_bytes().escape_ascii().to_string().replace(' ', "\\x20")
}
