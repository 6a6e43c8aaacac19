//! The GUID partition table (UEFI 2.10, section 5.3): a protective MBR, the table with its header at the disk's beginning,
//! and both again at its end. It says nothing but what it is given, so that the same partitions make the same bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use flate2::Crc;

/// Bytes of a sector.
pub(super) const SECTOR: u64 = 512;

/// What the header begins with.
pub(super) const SIGNATURE: &[u8; 8] = b"EFI PART";

/// Partitions that Linux looks at: minor numbers of one disk, less the disk itself.
pub(super) const MOST: usize = 255;

/// Entries that every table has room for, as the specification demands.
const USUAL_ENTRIES: usize = 128;
/// Bytes of an entry.
const ENTRY: usize = 128;
/// Bytes of the header that its checksum is over.
const HEADER: usize = 92;
/// Characters of a name.
const NAME: usize = 36;

/// The type of a partition with a Linux filesystem, 0FC63DAF-8483-4772-8E79-3D69D8477DE4.
const LINUX: [u8; 16] =
    [0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4];

/// Attributes of the Discoverable Partitions Specification: a system that this disk is shown to need not mount what is on it.
const READ_ONLY: u64 = 1 << 60;
const NO_AUTO: u64 = 1 << 63;

/// An entry of the table.
#[derive(Debug, Clone)]
pub(super) struct Partition {
    pub(super) name: String,
    /// What makes it different from every other partition.
    pub(super) guid: [u8; 16],
    /// The first sector.
    pub(super) first: u64,
    /// The last sector, which belongs to it.
    pub(super) last: u64,
    pub(super) writable: bool,
}

/// Sectors before the first that a partition may use.
pub(super) fn head(partitions: usize) -> u64 {
    2 + table_sectors(partitions)
}

/// Sectors after the last that a partition may use.
pub(super) fn tail(partitions: usize) -> u64 {
    1 + table_sectors(partitions)
}

fn entries(partitions: usize) -> usize {
    partitions.next_multiple_of(SECTOR as usize / ENTRY).max(USUAL_ENTRIES)
}

fn table_sectors(partitions: usize) -> u64 {
    (entries(partitions) * ENTRY) as u64 / SECTOR
}

/// Writes both tables of a disk of that many sectors.
pub(super) fn write(out: &File, disk: &[u8; 16], partitions: &[Partition], sectors: u64) -> io::Result<()> {
    let mut table = Vec::with_capacity(entries(partitions.len()) * ENTRY);
    for partition in partitions {
        table.extend(entry(partition));
    }
    table.resize(entries(partitions.len()) * ENTRY, 0);
    let backup = sectors - 1;
    let backup_table = backup - table_sectors(partitions.len());
    let header = |own: u64, other: u64, at: u64| header(disk, &table, own, other, at, sectors);
    out.write_all_at(&table, 2 * SECTOR)?;
    out.write_all_at(&header(1, backup, 2), SECTOR)?;
    out.write_all_at(&table, backup_table * SECTOR)?;
    out.write_all_at(&header(backup, 1, backup_table), backup * SECTOR)?;
    out.write_all_at(&protective(sectors), 0)
}

fn entry(partition: &Partition) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    entry[..16].copy_from_slice(&LINUX);
    entry[16..32].copy_from_slice(&partition.guid);
    entry[32..40].copy_from_slice(&partition.first.to_le_bytes());
    entry[40..48].copy_from_slice(&partition.last.to_le_bytes());
    let attributes = if partition.writable { NO_AUTO } else { NO_AUTO | READ_ONLY };
    entry[48..56].copy_from_slice(&attributes.to_le_bytes());
    for (unit, bytes) in partition.name.encode_utf16().take(NAME).zip(entry[56..].chunks_exact_mut(2)) {
        bytes.copy_from_slice(&unit.to_le_bytes());
    }
    entry
}

fn header(
    disk: &[u8; 16],
    table: &[u8],
    own: u64,
    other: u64,
    at: u64,
    sectors: u64,
) -> [u8; SECTOR as usize] {
    let table_sectors = table.len() as u64 / SECTOR;
    let mut header = [0; SECTOR as usize];
    header[..8].copy_from_slice(SIGNATURE);
    header[8..12].copy_from_slice(&0x1_0000_u32.to_le_bytes());
    header[12..16].copy_from_slice(&(HEADER as u32).to_le_bytes());
    header[24..32].copy_from_slice(&own.to_le_bytes());
    header[32..40].copy_from_slice(&other.to_le_bytes());
    header[40..48].copy_from_slice(&(2 + table_sectors).to_le_bytes());
    header[48..56].copy_from_slice(&(sectors - 2 - table_sectors).to_le_bytes());
    header[56..72].copy_from_slice(disk);
    header[72..80].copy_from_slice(&at.to_le_bytes());
    header[80..84].copy_from_slice(&((table.len() / ENTRY) as u32).to_le_bytes());
    header[84..88].copy_from_slice(&(ENTRY as u32).to_le_bytes());
    header[88..92].copy_from_slice(&crc32(table).to_le_bytes());
    let checksum = crc32(&header[..HEADER]);
    header[16..20].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// An MBR that keeps programs that know no GPT away: one partition of type EE over the whole disk.
fn protective(sectors: u64) -> [u8; SECTOR as usize] {
    let mut sector = [0; SECTOR as usize];
    let entry = &mut sector[446..462];
    // Beginning and end in cylinders, heads and sectors: the second sector, and as far as can be said.
    entry[1..4].copy_from_slice(&[0, 2, 0]);
    entry[4] = 0xee;
    entry[5..8].copy_from_slice(&[0xff; 3]);
    entry[8..12].copy_from_slice(&1_u32.to_le_bytes());
    let length = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
    entry[12..16].copy_from_slice(&length.to_le_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}
