//! Which device answers at an address: one [`Bus`] for ports, one for memory-mapped registers.

use std::sync::Arc;

/// A device with registers. The offset is from the start of its range; accesses never cross the range's end.
///
/// Several vCPUs call at once.
pub trait Registers: Send + Sync {
    /// The guest reads; `data` is all ones before.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// The guest writes.
    fn write(&self, offset: u64, data: &[u8]);
}

struct Range {
    start: u64,
    size: u64,
    registers: Arc<dyn Registers>,
}

/// Registers by address. What nobody claims reads as all ones, and writes to it are lost, as on a PC.
#[derive(Default)]
pub struct Bus {
    /// In ascending order, without overlap.
    ranges: Vec<Range>,
}

impl Bus {
    /// Adds a device at `start`. Ranges come from the machine's layout, so an overlap is a mistake in this program.
    ///
    /// # Panics
    ///
    /// If the range is empty or overlaps one that is there.
    pub fn add(&mut self, start: u64, size: u64, registers: Arc<dyn Registers>) {
        let at = self.ranges.partition_point(|range| range.start < start);
        let after_previous = at.checked_sub(1).is_none_or(|before| {
            let before = &self.ranges[before];
            before.start + before.size <= start
        });
        let before_next = self.ranges.get(at).is_none_or(|next| start + size <= next.start);
        assert!(size > 0 && after_previous && before_next, "registers at {start:#x} overlap others");
        self.ranges.insert(at, Range { start, size, registers });
    }

    /// Passes a read on to whom it concerns.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((registers, offset)) = self.find(address, data.len()) {
            registers.read(offset, data);
        }
    }

    /// Passes a write on to whom it concerns.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((registers, offset)) = self.find(address, data.len()) {
            registers.write(offset, data);
        }
    }

    fn find(&self, address: u64, length: usize) -> Option<(&dyn Registers, u64)> {
        let at = self.ranges.partition_point(|range| range.start <= address).checked_sub(1)?;
        let range = &self.ranges[at];
        let offset = address - range.start;
        let end = offset.checked_add(length as u64)?;
        (end <= range.size).then_some((&*range.registers, offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Reads as a constant and records writes.
    struct Probe(u8, Mutex<Vec<(u64, Vec<u8>)>>);

    impl Registers for Probe {
        fn read(&self, _: u64, data: &mut [u8]) {
            data.fill(self.0);
        }
        fn write(&self, offset: u64, data: &[u8]) {
            self.1.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    fn probe(value: u8) -> Arc<Probe> {
        Arc::new(Probe(value, Mutex::default()))
    }

    #[test]
    fn finds_the_device_whose_range_holds_the_access() {
        let (one, two) = (probe(1), probe(2));
        let mut bus = Bus::default();
        bus.add(0x2000, 0x10, two.clone());
        bus.add(0x1000, 0x10, one.clone());
        let read = |address| {
            let mut data = [0; 2];
            bus.read(address, &mut data);
            data
        };
        assert_eq!(read(0x1000), [1, 1]);
        assert_eq!(read(0x200e), [2, 2]);
        assert_eq!(read(0x200f), [0xff, 0xff], "crosses the end");
        assert_eq!(read(0xfff), [0xff, 0xff], "begins before");
        assert_eq!(read(u64::MAX), [0xff, 0xff]);
        bus.write(0x1004, &[7]);
        assert_eq!(*one.1.lock().unwrap(), [(4, vec![7])]);
        assert!(two.1.lock().unwrap().is_empty());
    }

    #[test]
    #[should_panic(expected = "overlap")]
    fn refuses_overlapping_ranges() {
        let mut bus = Bus::default();
        bus.add(0x1000, 0x10, probe(1));
        bus.add(0x100f, 0x10, probe(2));
    }
}
