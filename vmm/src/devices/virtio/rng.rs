//! virtio-rng: random bytes from the host. Specification, section 5.4.

use super::{Device, Fault, Io};
use vm_memory::VolatileSlice;

/// The device type.
const ID: u32 = 4;
const QUEUES: &[u16] = &[8];
/// The most that one request gets: a driver asks again for more, and none holds up the others for long.
const LIMIT: usize = 64 << 10;

/// A source of random bytes.
#[derive(Default)]
pub struct Rng;

/// Fills a buffer, up to `limit` bytes, and returns how much that was.
fn fill(buffer: &VolatileSlice<'_>, limit: usize) -> usize {
    let length = buffer.len().min(limit);
    let mut done = 0;
    while done < length {
        let at = buffer.ptr_guard_mut().as_ptr().wrapping_add(done);
        // SAFETY: `at` is inside the buffer, which has `length - done` bytes from there on and stays mapped.
        match unsafe { libc::getrandom(at.cast(), length - done, 0) } {
            count @ 1.. => done += count as usize,
            _ => break,
        }
    }
    done
}

impl Device for Rng {
    fn id(&self) -> u32 {
        ID
    }

    fn queues(&self) -> &'static [u16] {
        QUEUES
    }

    fn kicked(&mut self, queue: usize, io: &mut Io<'_>) -> Result<(), Fault> {
        io.serve(queue, |chain| {
            let mut written = 0;
            for buffer in chain.writable() {
                written += fill(buffer, LIMIT - written);
            }
            Ok(written as u32)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{BUFFERS, Driver};
    use super::*;

    #[test]
    fn fills_what_it_is_given() {
        let mut driver = Driver::start(Box::new(Rng), u64::MAX);
        driver.add(0, &[(BUFFERS, 40, true), (BUFFERS + 4096, 24, true)]);
        driver.add(0, &[(BUFFERS + 8192, 1 << 20, true)]);
        driver.add(0, &[(BUFFERS, 8, false)]);
        driver.kick(0);
        assert_eq!(
            driver.used(0).iter().map(|(_, written)| *written).collect::<Vec<_>>(),
            [64, LIMIT as u32, 0]
        );
        assert_ne!(driver.get(BUFFERS, 40), [0; 40]);
        assert_ne!(driver.get(BUFFERS + 4096, 24), [0; 24]);
        assert_eq!(driver.get(BUFFERS + 4096 + 24, 8), [0; 8]);
    }
}
