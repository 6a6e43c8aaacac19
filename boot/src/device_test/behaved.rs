//! Each device used as its driver should.

use super::Slot;
use crate::memory::Flat;
use virtio_drivers::device::blk::{SECTOR_SIZE, VirtIOBlk};
use virtio_drivers::device::console::VirtIOConsole;
use virtio_drivers::device::net::VirtIONet;
use virtio_drivers::device::rng::VirtIORng;
use virtio_drivers::device::socket::{
    VMADDR_CID_HOST, VirtIOSocket, VsockAddr, VsockConnectionManager, VsockEventType,
};

/// How often an answer of the host is asked for.
const PATIENCE: usize = 20_000;

/// Writes a sector that tells its own number and reads it back; a read-only disk is read and must refuse the write.
pub fn blk(slot: Slot) -> Result<(), &'static str> {
    let mut disk = VirtIOBlk::<Flat, _>::new(slot.transport()?).map_err(|_| "does not start")?;
    let last = usize::try_from(disk.capacity()).ok().and_then(|sectors| sectors.checked_sub(1));
    let last = last.ok_or("has no sector")?;
    let mut sector = [0; SECTOR_SIZE];
    if disk.readonly() {
        disk.read_blocks(last, &mut sector).map_err(|_| "does not read")?;
        return match disk.write_blocks(last, &sector) {
            Ok(()) => Err("is read-only and took a write"),
            Err(_) => Ok(()),
        };
    }
    for number in [0, last] {
        let mut text = [0; SECTOR_SIZE];
        text[..8].copy_from_slice(&(number as u64 ^ 0x5eed).to_le_bytes());
        disk.write_blocks(number, &text).map_err(|_| "does not write")?;
        disk.read_blocks(number, &mut sector).map_err(|_| "does not read")?;
        if sector != text {
            return Err("reads something else than was written");
        }
    }
    if disk.read_blocks(last + 1, &mut sector).is_ok() {
        return Err("reads behind its end");
    }
    disk.flush().map_err(|_| "does not flush")
}

/// Asks for 32 bytes twice; they must differ.
pub fn rng(slot: Slot) -> Result<(), &'static str> {
    let mut source = VirtIORng::<Flat, _>::new(slot.transport()?).map_err(|_| "does not start")?;
    let mut draws = [[0; 32]; 2];
    for draw in &mut draws {
        let length = source.request_entropy(draw).map_err(|_| "gives nothing")?;
        if length != draw.len() {
            return Err("fills only a part");
        }
    }
    if draws[0] == draws[1] { Err("gives the same bytes twice") } else { Ok(()) }
}

/// Writes a line to the console.
pub fn console(slot: Slot) -> Result<(), &'static str> {
    let mut console = VirtIOConsole::<Flat, _>::new(slot.transport()?).map_err(|_| "does not start")?;
    console.send_bytes(b"hello from the device test\n").map_err(|_| "does not send")
}

/// Connects to `port` of the host, sends a line, expects it back, and closes.
pub fn vsock(slot: Slot, port: u32) -> Result<(), &'static str> {
    const MINE: u32 = 1234;
    let driver = VirtIOSocket::<Flat, _>::new(slot.transport()?).map_err(|_| "does not start")?;
    let mut sockets = VsockConnectionManager::new(driver);
    let host = VsockAddr { cid: VMADDR_CID_HOST, port };
    sockets.connect(host, MINE).map_err(|_| "does not connect")?;
    let sent = b"aboard";
    let mut answer = [0; 6];
    let mut answered = 0;
    for _ in 0..PATIENCE {
        let event = sockets.poll().map_err(|_| "breaks the protocol")?;
        match event.map(|event| event.event_type) {
            Some(VsockEventType::Connected) => {
                sockets.send(host, MINE, sent).map_err(|_| "does not send")?;
            }
            Some(VsockEventType::Received { .. }) => {
                answered +=
                    sockets.recv(host, MINE, &mut answer[answered..]).map_err(|_| "does not receive")?;
                if answered == answer.len() {
                    sockets.shutdown(host, MINE).map_err(|_| "does not close")?;
                    return if answer == *sent { Ok(()) } else { Err("answers something else") };
                }
            }
            Some(VsockEventType::Disconnected { .. }) => return Err("hangs up"),
            Some(_) | None => {}
        }
    }
    Err("never answers")
}

/// Sends a frame to the address that clouds keep their secrets at and one to a neighbour, and expects back the second.
pub fn net(slot: Slot) -> Result<(), &'static str> {
    const FORBIDDEN: [u8; 4] = [169, 254, 169, 254];
    const ALLOWED: [u8; 4] = [192, 0, 2, 1];
    const LENGTH: usize = 900;
    let mut card = VirtIONet::<Flat, _, 16>::new(slot.transport()?, 2048).map_err(|_| "does not start")?;
    let mine = card.mac_address();
    for destination in [FORBIDDEN, ALLOWED] {
        let mut buffer = card.new_tx_buffer(LENGTH);
        let frame = buffer.packet_mut();
        frame[..6].copy_from_slice(&[0xff; 6]);
        frame[6..12].copy_from_slice(&mine);
        frame[12..15].copy_from_slice(&[8, 0, 0x45]);
        frame[30..34].copy_from_slice(&destination);
        frame[LENGTH - 1] = 0x5e;
        card.send(buffer).map_err(|_| "does not send")?;
    }
    for _ in 0..PATIENCE {
        let Ok(buffer) = card.receive() else { continue };
        let frame = buffer.packet();
        if frame.len() == LENGTH && frame[..6] == mine {
            let same = frame[6..12] == [0xff; 6] && frame[LENGTH - 1] == 0x5e;
            return match frame[30..34] {
                _ if !same => Err("brings back something else than was sent"),
                ref address if *address == ALLOWED => Ok(()),
                _ => Err("lets a frame out that it must not"),
            };
        }
        card.recycle_rx_buffer(buffer).map_err(|_| "does not take a buffer back")?;
    }
    Err("brings nothing back")
}
