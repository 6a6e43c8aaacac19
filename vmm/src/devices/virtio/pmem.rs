//! virtio-pmem: a piece of the guest's address space that files of the host are mapped into. Specification, section 5.19.
//!
//! The device only says where that is ([`crate::machine`] has mapped the files there, for reading) and answers a flush, which has
//! nothing to do. Guests of one image so share the host's page cache of its layers, and keep none of their own.

use super::{Device, Fault, Io};
use vm_memory::ByteValued;

/// The device type.
const ID: u32 = 27;
const QUEUES: &[u16] = &[16];
/// The only request there is.
const FLUSH: u32 = 0;
/// What its answer says.
const DONE: u32 = 0;
const FAILED: u32 = 1;

/// The configuration space (specification, section 5.19.4).
#[derive(Clone, Copy)]
#[repr(C)]
struct Config {
    start: u64,
    bytes: u64,
}

// SAFETY: plain integers without padding.
unsafe impl ByteValued for Config {}

/// Files of the host in the guest's address space.
pub struct Pmem(Config);

impl Pmem {
    /// `bytes` bytes from the guest's address `start` on; whole pieces of 2 MiB, as Linux wants them.
    pub fn new(start: u64, bytes: u64) -> Self {
        Self(Config { start, bytes })
    }
}

impl Device for Pmem {
    fn id(&self) -> u32 {
        ID
    }

    fn queues(&self) -> &'static [u16] {
        QUEUES
    }

    fn config(&self) -> &[u8] {
        self.0.as_slice()
    }

    fn kicked(&mut self, queue: usize, io: &mut Io<'_>) -> Result<(), Fault> {
        io.serve(queue, |chain| {
            let kind: u32 = chain.read()?;
            let result = if u32::from_le(kind) == FLUSH { DONE } else { FAILED };
            Ok(chain.write_at(0, &result.to_le_bytes()) as u32)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{BUFFERS, Driver};
    use super::super::transport::register;
    use super::*;

    #[test]
    fn says_where_it_is_and_flushes() {
        let mut driver = Driver::start(Box::new(Pmem::new(5 << 30, 2 << 20)), u64::MAX);
        let config: Vec<u32> = (0..4).map(|word| driver.read(register::CONFIG + 4 * word)).collect();
        assert_eq!(config, [1 << 30, 1, 2 << 20, 0]);
        for (kind, answer) in [(FLUSH, DONE), (1, FAILED), (u32::MAX, FAILED)] {
            driver.put(BUFFERS, &kind.to_le_bytes());
            let head = driver.add(0, &[(BUFFERS, 4, false), (BUFFERS + 16, 4, true)]);
            driver.kick(0);
            assert_eq!(driver.used(0), [(head, 4)]);
            assert_eq!(driver.get(BUFFERS + 16, 4), answer.to_le_bytes());
        }
        driver.put(BUFFERS, &[0; 4]);
        driver.add(0, &[(BUFFERS, 4, false), (BUFFERS + 16, 2, true)]);
        driver.kick(0);
        assert_eq!(driver.used(0)[0].1, 2, "an answer that does not fit is cut off");
        driver.add(0, &[(BUFFERS, 3, false)]);
        driver.kick(0);
        assert!(driver.needs_reset());
    }
}
