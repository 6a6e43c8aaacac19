//! The device mapper's ioctls (include/uapi/linux/dm-ioctl.h), as far as a read-only device of one target needs them.

use syscalls::{Sysno, syscall};

use super::file::{CWD, O_RDWR, open};
use super::{Errno, Fd, Result};

/// struct dm_ioctl, and behind it room for one target and its parameters.
#[repr(C, align(8))]
struct Request {
    version: [u32; 3],
    size: u32,
    start: u32,
    targets: u32,
    open_count: i32,
    flags: u32,
    event: u32,
    padding: u32,
    device: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    data: [u8; 7],
    // struct dm_target_spec.
    sector: u64,
    sectors: u64,
    status: i32,
    next: u32,
    kind: [u8; 16],
    parameters: [u8; PARAMETERS],
}

/// Room for a target's parameters with the zero behind them, in bytes.
const PARAMETERS: usize = 1536;

/// Bytes of struct dm_ioctl itself.
const HEAD: usize = core::mem::offset_of!(Request, sector);

const READ_ONLY: u32 = 1 << 0;
const DEFERRED: u32 = 1 << 17;

/// The commands' numbers.
const CREATE: u32 = 3;
const REMOVE: u32 = 4;
const SUSPEND: u32 = 6;
const STATUS: u32 = 7;
const LOAD: u32 = 9;

/// What a device is made of.
pub struct Target<'a> {
    /// Its length in sectors of 512 bytes.
    pub sectors: u64,
    /// What makes it.
    pub kind: &'a str,
    /// That one's parameters.
    pub parameters: &'a str,
}

/// The device mapper.
pub struct Mapper(Fd);

impl Mapper {
    /// Opens it; `ENOENT` when the kernel has none.
    pub fn open() -> Result<Mapper> {
        open(CWD, "/dev/mapper/control", O_RDWR, 0).map(Mapper)
    }

    /// Gives a command about the device of this name; the target is the one to be loaded. The device's number.
    fn call(&self, command: u32, flags: u32, name: &str, target: Option<&Target<'_>>) -> Result<u64> {
        // SAFETY: numbers, all of which may be zero.
        let mut request: Request = unsafe { core::mem::zeroed() };
        (request.version, request.size, request.start) =
            ([4, 0, 0], size_of::<Request>() as u32, HEAD as u32);
        request.flags = flags;
        put(name, &mut request.name)?;
        if let Some(target) = target {
            (request.targets, request.sectors) = (1, target.sectors);
            put(target.kind, &mut request.kind)?;
            put(target.parameters, &mut request.parameters)?;
        }
        // _IOWR(DM_IOCTL, command, struct dm_ioctl).
        let number = 3 << 30 | (HEAD as u32) << 16 | 0xfd << 8 | command;
        // SAFETY: the kernel reads and writes at most the size that the request says it has.
        unsafe { syscall!(Sysno::ioctl, self.0.raw(), number, &raw mut request) }?;
        Ok(request.device)
    }

    /// Makes a read-only device of this name with one target. `EBUSY` when there is one of the name.
    pub fn create(&self, name: &str, target: &Target<'_>) -> Result<()> {
        self.call(CREATE, 0, name, None)?;
        let loaded = self.call(LOAD, READ_ONLY, name, Some(target));
        // Without the flag that suspends it, it is resumed.
        let result = loaded.and_then(|_| self.call(SUSPEND, 0, name, None));
        if result.is_err() {
            self.remove(name);
        }
        result.map(|_| ())
    }

    /// The minor number of the device of this name, whose node is `/dev/dm-MINOR`.
    pub fn minor(&self, name: &str) -> Result<u64> {
        // The kernel's encoding of device numbers: twelve bits of the major lie within the minor's.
        self.call(STATUS, 0, name, None).map(|device| device & 0xff | (device >> 12) & 0xfff00)
    }

    /// Removes a device, now or when nothing uses it any more.
    pub fn remove(&self, name: &str) {
        let _ = self.call(REMOVE, DEFERRED, name, None);
    }
}

/// Writes text into a field of zeros, of which one is left.
fn put(text: &str, field: &mut [u8]) -> Result<()> {
    let room = field.len() - 1;
    field[..room].get_mut(..text.len()).ok_or(Errno::EINVAL)?.copy_from_slice(text.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_laid_out_as_the_kernel_has_them() {
        // sizeof(struct dm_ioctl) and sizeof(struct dm_target_spec).
        assert_eq!(HEAD, 312);
        assert_eq!(core::mem::offset_of!(Request, parameters), 312 + 40);
        assert_eq!(core::mem::offset_of!(Request, device), 40);
        assert_eq!(core::mem::offset_of!(Request, uuid), 176);
    }
}
