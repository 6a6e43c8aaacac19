//! VM generation ID: sixteen bytes that are others in every copy of a VM, so that a guest that goes on from a snapshot knows
//! that its random numbers must not be the same again.
//!
//! The binding is Linux's Documentation/devicetree/bindings/rng/microsoft,vmgenid.yaml, after Microsoft's "Virtual Machine
//! Generation ID".

use super::bus::Registers;
use std::io;
use std::sync::{Mutex, PoisonError};
use vmm_sys_util::eventfd::EventFd;

/// A generation.
pub type Generation = [u8; 16];

/// The register with the generation, and the line that tells of another one.
pub struct Vmgenid {
    generation: Mutex<Generation>,
    line: EventFd,
}

impl Vmgenid {
    /// A register that holds `generation`.
    pub fn new(generation: Generation, line: EventFd) -> Self {
        Self { generation: Mutex::new(generation), line }
    }

    /// Puts another generation in its place, and tells the guest.
    pub fn renew(&self, generation: Generation) -> io::Result<()> {
        *self.generation.lock().unwrap_or_else(PoisonError::into_inner) = generation;
        self.line.write(1)
    }
}

impl Registers for Vmgenid {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let generation = *self.generation.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = generation.get(offset as usize..).unwrap_or(&[]);
        let length = rest.len().min(data.len());
        data[..length].copy_from_slice(&rest[..length]);
    }

    fn write(&self, _: u64, _: &[u8]) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    #[test]
    fn a_new_generation_is_read_and_told_of() {
        let line = EventFd::new(EFD_NONBLOCK).unwrap();
        let register = Vmgenid::new([1; 16], line.try_clone().unwrap());
        let mut half = [0; 8];
        register.read(8, &mut half);
        assert_eq!(half, [1; 8]);
        register.write(0, &[9; 8]);
        register.read(0, &mut half);
        assert_eq!(half, [1; 8], "the guest cannot change it");
        assert!(line.read().is_err());
        register.renew([2; 16]).unwrap();
        register.read(0, &mut half);
        assert_eq!((half, line.read().unwrap()), ([2; 8], 1));
        register.read(14, &mut half);
        assert_eq!(half, [2; 8], "what is behind its end stays");
    }
}
