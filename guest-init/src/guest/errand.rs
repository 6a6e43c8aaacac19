//! What a child does that is sent for an answer: everything that may have to wait for a disk or for a container.

use super::space::Space;
use super::{files, hotplug, probe, processes, volumes};
use crate::agent::decode;
use crate::api::ttrpc::Request;
use crate::api::{ferry, method};
use crate::prelude::*;
use crate::sys::event::kernel_log;

/// Most of the kernel's log that is given, in bytes: its ring is smaller.
const LOG_LIMIT: usize = 1 << 20;

/// The answer to a call.
pub fn answer(space: Option<&Space>, request: &Request) -> Result<Vec<u8>> {
    let space = || space.ok_or_else(|| fault!(Internal, "no container"));
    match request.method.as_str() {
        method::LIST_PROCESSES => Ok(processes::list(space()?)?.encode_to_vec()),
        method::STAT_FILE => Ok(files::stat(&space()?.open_root()?, &decode(request)?)?.encode_to_vec()),
        method::READ_DIR => Ok(files::list(&space()?.open_root()?, &decode(request)?)?.encode_to_vec()),
        method::READ_FILE => Ok(files::read(&space()?.open_root()?, &decode(request)?)?.encode_to_vec()),
        method::COPY_FILE => files::copy_in(space().ok(), &decode(request)?).map(|()| Vec::new()),
        method::GET_VOLUME_STATS => Ok(volumes::stats(&decode(request)?)?.encode_to_vec()),
        method::RESIZE_VOLUME => volumes::resize(&decode(request)?).map(|()| Vec::new()),
        method::ONLINE_CPU_MEM => hotplug::online(&decode(request)?).map(|()| Vec::new()),
        method::ADD_SWAP_PATH => volumes::add_swap(&decode(request)?).map(|()| Vec::new()),
        method::ADD_SWAP => volumes::add_swap_by_place(&decode(request)?).map(|()| Vec::new()),
        method::GET_DIAGNOSTIC_DATA => Ok(files::last_words(space()?, &decode(request)?)?.encode_to_vec()),
        method::PROBE => probe::probe(&decode(request)?).map(|()| Vec::new()),
        method::KERNEL_LOG => {
            let text = kernel_log(LOG_LIMIT).context("read the kernel's log")?;
            Ok(ferry::KernelLogResponse { text: without_levels(&text) }.encode_to_vec())
        }
        other => Err(fault!(Unimplemented, "this agent has no {other}")),
    }
}

/// The log's lines without the `<6>` before each.
fn without_levels(log: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(log.len());
    for line in log.split_inclusive(|&byte| byte == b'\n') {
        let end = line.iter().take(5).position(|&byte| byte == b'>').filter(|_| line.first() == Some(&b'<'));
        text.extend_from_slice(&line[end.map_or(0, |end| end + 1)..]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_levels_are_left_out() {
        let log = b"<6>[    0.1] a <b>\n<30>[    0.2] c\n continued\n<no level\n";
        assert_eq!(without_levels(log), b"[    0.1] a <b>\n[    0.2] c\n continued\n<no level\n");
    }
}
