//! Processors and memory that come while the guest runs.

use crate::api::guest::{MemHotplugByProbeRequest, OnlineCpuMemRequest};
use crate::prelude::*;
use crate::sys::event::{now, sleep};
use crate::sys::file::{self, CWD, O_DIRECTORY, O_RDONLY, open, read_control, write_control};

const PROCESSORS: &str = "/sys/devices/system/cpu";
const MEMORY: &str = "/sys/devices/system/memory";
const PROBE: &str = "/sys/devices/system/memory/probe";

/// Most entries of one directory.
const LIMIT: usize = 1 << 16;

/// How long processors are waited for, and how long between two looks. In milliseconds.
const WAIT: u64 = 10_000;
const RETRY: u32 = 20;

/// `OnlineCPUMem`. Runs in a child: bringing a processor up takes its time.
pub fn online(call: &OnlineCpuMemRequest) -> Result {
    let deadline = now() + WAIT;
    let mut missing = if call.nb_cpus == 0 { u32::MAX } else { call.nb_cpus };
    loop {
        missing -= switch_on(PROCESSORS, "online", "0", "1", missing).context("bring processors up")?;
        if !call.wait || call.nb_cpus == 0 || missing == 0 {
            break;
        }
        refuse_if!(now() > deadline, Internal, "{missing} of {} processors did not come", call.nb_cpus);
        sleep(RETRY);
    }
    if !call.cpu_only {
        switch_on(MEMORY, "state", "offline", "online", u32::MAX).context("bring memory up")?;
    }
    Ok(())
}

/// Writes `on` into `name` of each entry where it says `off`, of at most so many; to how many.
fn switch_on(directory: &str, name: &str, off: &str, on: &str, most: u32) -> SysResult<u32> {
    let directory = match open(CWD, directory, O_RDONLY | O_DIRECTORY, 0) {
        // The kernel has no hotplug of this.
        Err(Errno::ENOENT) => return Ok(0),
        other => other?,
    };
    let mut switched = 0;
    for entry in file::list(directory.raw(), LIMIT)? {
        let path = format!("{entry}/{name}");
        // Entries without the file are not switched.
        if switched < most && read_control(directory.raw(), &path).is_ok_and(|text| text.trim_ascii() == off)
        {
            write_control(directory.raw(), &path, on.as_bytes())?;
            switched += 1;
        }
    }
    Ok(switched)
}

/// Whether memory can be announced by address.
pub fn can_probe() -> bool {
    file::stat_at(CWD, PROBE).is_ok()
}

/// `MemHotplugByProbe`.
pub fn probe(call: &MemHotplugByProbeRequest) -> Result {
    refuse_if!(!can_probe(), Unimplemented, "this guest's kernel finds memory itself and takes no addresses");
    for address in &call.mem_hotplug_probe_addr {
        write_control(CWD, PROBE, format!("{address:#x}").as_bytes())
            .context(format_args!("announce memory at {address:#x}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_off_is_switched_on_and_no_more_than_asked() {
        let dir = tempfile::tempdir().unwrap();
        for (name, state) in
            [("cpu0", None), ("cpu1", Some("1\n")), ("cpu2", Some("0\n")), ("cpu3", Some("0\n"))]
        {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            if let Some(state) = state {
                std::fs::write(dir.path().join(name).join("online"), state).unwrap();
            }
        }
        let path = dir.path().to_str().unwrap();
        assert_eq!(switch_on(path, "online", "0", "1", 1), Ok(1));
        let on = |name: &str| std::fs::read(dir.path().join(name).join("online")).unwrap()[0] == b'1';
        assert!(on("cpu2") != on("cpu3"));
        assert_eq!(switch_on(path, "online", "0", "1", 9), Ok(1));
        assert!(on("cpu2") && on("cpu3"));
        assert_eq!(switch_on("/nothing", "online", "0", "1", 9), Ok(0));
    }
}
