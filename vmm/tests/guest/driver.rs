//! The driver's side of virtio, in scripts: what a guest of a few instructions asks devices for.

use super::Script;

/// Addresses of slots, and registers in them, as the machine's contract and the virtio specification have them.
pub const SLOT: u64 = 0xd000_0000;
const STATUS: u64 = 0x70;
/// Free guest memory: rings of queue Q at RINGS + Q * 0x3000, buffers at BUFFERS.
pub const RINGS: u64 = 0x20_0000;
pub const BUFFERS: u64 = 0x30_0000;

/// Negotiates with the device in a slot and sets up its first queues with eight entries each.
pub fn start(mut script: Script, slot: u64, queues: u64) -> Script {
    let at = SLOT + slot * 0x1000;
    script = script.write(at + STATUS, 0).write(at + STATUS, 1).write(at + STATUS, 3);
    // VIRTIO_F_VERSION_1 alone.
    script = script.write(at + 0x24, 1).write(at + 0x20, 1).write(at + 0x24, 0).write(at + 0x20, 0);
    script = script.write(at + STATUS, 0xb);
    for queue in 0..queues {
        let rings = RINGS + (slot * 4 + queue) * 0x3000;
        script = script.write(at + 0x30, queue as u32).write(at + 0x38, 8);
        for (register, page) in [(0x80, 0), (0x90, 0x1000), (0xa0, 0x2000)] {
            script = script.write(at + register, (rings + page) as u32).write(at + register + 4, 0);
        }
        script = script.write(at + 0x44, 1);
    }
    script.write(at + STATUS, 0xf)
}

/// Offers a chain of buffers as the `number`th request of a queue, kicks, and does not wait.
pub fn offer(mut script: Script, slot: u64, queue: u64, number: u16, buffers: &[(u64, u32, bool)]) -> Script {
    let rings = RINGS + (slot * 4 + queue) * 0x3000;
    for (index, (address, length, writable)) in buffers.iter().enumerate() {
        let entry = rings + index as u64 * 16;
        let next = if index + 1 < buffers.len() { 1 } else { 0 };
        let flags = next | if *writable { 2 } else { 0 } | (index as u32 + 1) << 16;
        script = script.write64(entry, *address).write(entry + 8, *length).write(entry + 12, flags);
    }
    // Head 0 in every slot of the available ring is what zeroed memory says; only the index moves.
    script.write(rings + 0x1000, u32::from(number) << 16).write(SLOT + slot * 0x1000 + 0x50, queue as u32)
}

/// Waits until a queue has given `number` requests back.
pub fn wait(script: Script, slot: u64, queue: u64, number: u16) -> Script {
    script.wait(RINGS + (slot * 4 + queue) * 0x3000 + 0x2002, number)
}
