//! Tar archives written byte by byte, because the tests are about what archives can hold: any name, any owner,
//! nanoseconds, extended attributes, sparse files in GNU's and in PAX's way.

/// One entry of an archive.
#[derive(Clone, Debug)]
pub struct Entry {
    pub name: Vec<u8>,
    /// The typeflag: `0` file, `1` hardlink, `2` symlink, `3` and `4` devices, `5` directory, `6` FIFO.
    pub kind: u8,
    pub mode: u32,
    pub owner: (u64, u64),
    /// Seconds and nanoseconds.
    pub time: (i64, u32),
    pub target: Vec<u8>,
    pub device: (u32, u32),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub data: Vec<u8>,
}

impl Entry {
    /// An entry of this type, owned by root and readable by all.
    pub fn new(kind: u8, name: impl AsRef<[u8]>) -> Entry {
        Entry {
            name: name.as_ref().to_vec(),
            kind,
            mode: if kind == b'5' { 0o755 } else { 0o644 },
            owner: (0, 0),
            time: (1_700_000_000, 0),
            target: Vec::new(),
            device: (0, 0),
            xattrs: Vec::new(),
            data: Vec::new(),
        }
    }
}

const BLOCK: usize = 512;

/// An archive that grows.
#[derive(Clone, Default)]
pub struct Tarball(Vec<u8>);

impl Tarball {
    pub fn new() -> Tarball {
        Tarball::default()
    }

    /// The archive with its end.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.0.clone();
        bytes.resize(bytes.len() + 2 * BLOCK, 0);
        bytes
    }

    pub fn directory(&mut self, name: &str) -> &mut Tarball {
        self.add(&Entry::new(b'5', name))
    }

    pub fn file(&mut self, name: &str, data: &[u8]) -> &mut Tarball {
        self.add(&Entry { data: data.to_vec(), ..Entry::new(b'0', name) })
    }

    pub fn program(&mut self, name: &str, data: &[u8]) -> &mut Tarball {
        self.add(&Entry { data: data.to_vec(), mode: 0o755, ..Entry::new(b'0', name) })
    }

    pub fn symlink(&mut self, name: &str, target: &str) -> &mut Tarball {
        self.add(&Entry { target: target.into(), mode: 0o777, ..Entry::new(b'2', name) })
    }

    pub fn hardlink(&mut self, name: &str, target: &str) -> &mut Tarball {
        self.add(&Entry { target: target.into(), ..Entry::new(b'1', name) })
    }

    /// Adds an entry, with a PAX header for whatever the old header cannot hold.
    pub fn add(&mut self, entry: &Entry) -> &mut Tarball {
        let mut records = Vec::new();
        if entry.name.len() > 100 {
            record(&mut records, b"path", &entry.name);
        }
        if entry.target.len() > 100 {
            record(&mut records, b"linkpath", &entry.target);
        }
        for (key, id) in [("uid", entry.owner.0), ("gid", entry.owner.1)] {
            if id >= 1 << 21 {
                record(&mut records, key.as_bytes(), id.to_string().as_bytes());
            }
        }
        if entry.time.1 != 0 || entry.time.0 < 0 {
            let time = format!("{}.{:09}", entry.time.0, entry.time.1);
            record(&mut records, b"mtime", time.as_bytes());
        }
        for (name, value) in &entry.xattrs {
            record(&mut records, &[b"SCHILY.xattr.", &name[..]].concat(), value);
        }
        self.pax(&records);
        self.header(entry, entry.data.len() as u64);
        self.data(&entry.data)
    }

    /// A PAX header with these records, for the entry that follows.
    pub fn pax(&mut self, records: &[u8]) -> &mut Tarball {
        if !records.is_empty() {
            self.header(&Entry::new(b'x', "PaxHeaders/entry"), records.len() as u64);
            self.data(records);
        }
        self
    }

    /// A file with holes, GNU's old way: type `S`, with the map of what is there in the header.
    pub fn gnu_sparse(&mut self, name: &str, pieces: &[(u64, &[u8])], size: u64) -> &mut Tarball {
        assert!(pieces.len() <= 4, "the map in the header has four places");
        let stored: u64 = pieces.iter().map(|(_, data)| data.len() as u64).sum();
        let mut header = block(&Entry::new(b'S', name), stored);
        header[257..265].copy_from_slice(b"ustar  \0");
        for (number, (offset, data)) in pieces.iter().enumerate() {
            let at = 386 + number * 24;
            octal(&mut header[at..at + 12], *offset);
            octal(&mut header[at + 12..at + 24], data.len() as u64);
        }
        octal(&mut header[483..495], size);
        checksum(&mut header);
        self.0.extend(header);
        self.data(&pieces.iter().flat_map(|(_, data)| data.to_vec()).collect::<Vec<u8>>())
    }

    /// A file with holes, PAX's way, version 1.0: the map is the beginning of the data.
    pub fn pax_sparse(&mut self, name: &str, pieces: &[(u64, &[u8])], size: u64) -> &mut Tarball {
        let mut map = format!("{}\n", pieces.len()).into_bytes();
        for (offset, data) in pieces {
            map.extend(format!("{offset}\n{}\n", data.len()).into_bytes());
        }
        map.resize(map.len().next_multiple_of(BLOCK), 0);
        map.extend(pieces.iter().flat_map(|(_, data)| data.to_vec()));
        let mut records = Vec::new();
        record(&mut records, b"GNU.sparse.major", b"1");
        record(&mut records, b"GNU.sparse.minor", b"0");
        record(&mut records, b"GNU.sparse.name", name.as_bytes());
        record(&mut records, b"GNU.sparse.realsize", size.to_string().as_bytes());
        self.pax(&records);
        self.header(&Entry::new(b'0', format!("GNUSparseFile.0/{name}")), map.len() as u64);
        self.data(&map)
    }

    fn header(&mut self, entry: &Entry, size: u64) {
        self.0.extend(block(entry, size));
    }

    fn data(&mut self, data: &[u8]) -> &mut Tarball {
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        self
    }
}

/// A ustar header.
fn block(entry: &Entry, size: u64) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let name = &entry.name[..entry.name.len().min(100)];
    header[..name.len()].copy_from_slice(name);
    octal(&mut header[100..108], u64::from(entry.mode));
    octal(&mut header[108..116], if entry.owner.0 < 1 << 21 { entry.owner.0 } else { 0 });
    octal(&mut header[116..124], if entry.owner.1 < 1 << 21 { entry.owner.1 } else { 0 });
    octal(&mut header[124..136], size);
    octal(&mut header[136..148], entry.time.0.max(0) as u64);
    header[156] = entry.kind;
    let target = &entry.target[..entry.target.len().min(100)];
    header[157..157 + target.len()].copy_from_slice(target);
    header[257..265].copy_from_slice(b"ustar\x0000");
    octal(&mut header[329..337], u64::from(entry.device.0));
    octal(&mut header[337..345], u64::from(entry.device.1));
    checksum(&mut header);
    header
}

fn octal(field: &mut [u8], value: u64) {
    let digits = format!("{value:0width$o}\0", width = field.len() - 1);
    field.copy_from_slice(digits.as_bytes());
}

fn checksum(header: &mut [u8; BLOCK]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// A PAX record: its own length in decimal, a space, key=value and a line feed.
pub fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = 1 + key.len() + 1 + value.len() + 1;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    records.extend(length.to_string().bytes());
    records.push(b' ');
    records.extend(key);
    records.push(b'=');
    records.extend(value);
    records.push(b'\n');
}
