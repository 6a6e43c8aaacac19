//! What the OCI runtime specification has and Kata's messages have not, as annotations: `io.ferry.oci.` and then the
//! field's path in config.json, such as `io.ferry.oci.process.user.umask`.
//!
//! A value is a number or a word as config.json has it, or `NAME=VALUE` pairs with commas between them where it has an
//! object there. A process that is executed later has the container's. A key that is not known, or a value that makes no
//! sense, fails the creation.

use super::words::{place, words};
use crate::api::oci::Spec;
use crate::prelude::*;

/// What all these keys begin with.
pub const PREFIX: &str = "io.ferry.oci.";

/// `SCHED_DEADLINE` and the others, policy N at place N; 4 was never given out.
const POLICIES: &[u8] = words!("OTHER FIFO RR BATCH  IDLE DEADLINE");

/// Flags of a scheduling policy, flag N at bit N.
const SCHEDULER_FLAGS: &[u8] =
    words!("RESET_ON_FORK RECLAIM DL_OVERRUN KEEP_POLICY KEEP_PARAMS UTIL_CLAMP_MIN UTIL_CLAMP_MAX");

/// Personalities (include/uapi/linux/personality.h), personality N at place N.
const PERSONALITIES: &[u8] = words!("LINUX        LINUX32");

/// Classes of I/O priority, class N at place N.
const CLASSES: &[u8] = words!("NONE RT BE IDLE");

/// The fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Further<'a> {
    /// `domainname`.
    pub domainname: Option<&'a str>,
    /// `process.user.umask`.
    pub umask: Option<u32>,
    /// `process.scheduler`.
    pub scheduler: Option<Scheduler>,
    /// `process.ioPriority`, as ioprio_set(2) has it.
    pub io_priority: Option<u32>,
    /// `linux.personality`, as personality(2) has it.
    pub personality: Option<u32>,
    /// `linux.timeOffsets`: lines of /proc/PID/timens_offsets.
    pub time_offsets: String,
    /// `linux.resources.unified` and `linux.resources.rdma`: names of cgroup files, and what to write there.
    pub cgroup: Vec<(&'a str, String)>,
}

/// How a process is scheduled: struct sched_attr (sched_setattr(2)) as the kernel first had it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scheduler {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

impl Further<'_> {
    /// What a specification's annotations say.
    pub fn parse(spec: &Spec) -> Result<Further<'_>> {
        let mut further = Further::default();
        for (key, value) in spec.annotations.iter() {
            let Some(path) = key.strip_prefix(PREFIX) else { continue };
            further
                .take(path, value)
                .map_err(|fault| fault.while_doing(format_args!("annotation {key} `{value}`")))?;
        }
        Ok(further)
    }
}

impl<'a> Further<'a> {
    fn take(&mut self, path: &'a str, value: &'a str) -> Result {
        match path {
            "domainname" => self.domainname = Some(value),
            "process.user.umask" => {
                self.umask = Some(number(value)?).filter(|mask| *mask <= 0o777);
                self.umask.ok_or_else(|| fault!(InvalidArgument, "a mask is 0 to 511"))?;
            }
            "process.scheduler" => self.scheduler = Some(scheduler(value)?),
            "process.ioPriority" => self.io_priority = Some(io_priority(value)?),
            "linux.personality" => self.personality = Some(named(PERSONALITIES, "", value)?),
            _ => {
                if let Some(clock) = path.strip_prefix("linux.timeOffsets.") {
                    self.time_offset(clock, value)?;
                } else if let Some(device) = path.strip_prefix("linux.resources.rdma.") {
                    self.cgroup.push(("rdma.max", rdma(device, value)?));
                } else if let Some(file) = path.strip_prefix("linux.resources.unified.") {
                    self.cgroup.push((file, value.into()));
                } else {
                    return Err(fault!(InvalidArgument, "no such field"));
                }
            }
        }
        Ok(())
    }

    fn time_offset(&mut self, clock: &str, value: &str) -> Result {
        let is_known = ["monotonic", "boottime"].contains(&clock);
        refuse_if!(!is_known, InvalidArgument, "the clocks of a time namespace are monotonic and boottime");
        let (mut seconds, mut nanoseconds) = (0i64, 0u32);
        pairs(value, &mut |name, value| {
            match name {
                "secs" => seconds = number(value)?,
                "nanosecs" => nanoseconds = number(value)?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        self.time_offsets.push_str(&format!("{clock} {seconds} {nanoseconds}\n"));
        Ok(())
    }
}

/// Calls `each` with every `NAME=VALUE`; it says whether it knows the name.
fn pairs(text: &str, each: &mut dyn FnMut(&str, &str) -> Result<bool>) -> Result {
    for pair in text.split(',') {
        if !pair.split_once('=').map_or(Ok(false), |(name, value)| each(name, value))? {
            return Err(fault!(InvalidArgument, "`{pair}` is none of its fields"));
        }
    }
    Ok(())
}

fn number<N: TryFrom<i64>>(text: &str) -> Result<N> {
    let number = text.parse().ok().and_then(|number: i64| N::try_from(number).ok());
    number.ok_or_else(|| fault!(InvalidArgument, "`{text}` is no number that it can be"))
}

/// The number of a word, which stands in its list without its prefix.
fn named(list: &[u8], prefix: &str, word: &str) -> Result<u32> {
    let number = word.strip_prefix(prefix).and_then(|bare| place(list, bare));
    number.ok_or_else(|| fault!(InvalidArgument, "`{word}` is no {prefix} that there is"))
}

fn scheduler(value: &str) -> Result<Scheduler> {
    let mut scheduler = Scheduler { size: size_of::<Scheduler>() as u32, ..Default::default() };
    pairs(value, &mut |name, value| {
        match name {
            "policy" => scheduler.policy = named(POLICIES, "SCHED_", value)?,
            "nice" => scheduler.nice = number(value)?,
            "priority" => scheduler.priority = number(value)?,
            "runtime" => scheduler.runtime = number(value)?,
            "deadline" => scheduler.deadline = number(value)?,
            "period" => scheduler.period = number(value)?,
            "flags" => {
                for flag in value.split('+') {
                    scheduler.flags |= 1 << named(SCHEDULER_FLAGS, "SCHED_FLAG_", flag)?;
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(scheduler)
}

/// The class at bit 13, and the level below it (include/uapi/linux/ioprio.h).
fn io_priority(value: &str) -> Result<u32> {
    let (mut class, mut level) = (0, 0u32);
    pairs(value, &mut |name, value| {
        match name {
            "class" => class = named(CLASSES, "IOPRIO_CLASS_", value)?,
            "priority" => level = number(value)?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    refuse_if!(level > 7, InvalidArgument, "a priority is 0 to 7");
    Ok(class << 13 | level)
}

/// A line of rdma.max.
fn rdma(device: &str, value: &str) -> Result<String> {
    let mut line = String::from(device);
    pairs(value, &mut |name, value| {
        let name = match name {
            "hcaHandles" => "hca_handle",
            "hcaObjects" => "hca_object",
            _ => return Ok(false),
        };
        line.push_str(&format!(" {name}={}", number::<u32>(value)?));
        Ok(true)
    })?;
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(annotations: &[(&str, &str)]) -> Spec {
        let entry = |(key, value): &(&str, &str)| (alloc::format!("{PREFIX}{key}"), String::from(*value));
        Spec { annotations: annotations.iter().map(entry).collect(), ..Default::default() }
    }

    #[test]
    fn fields_are_read_in_the_kernel_s_terms() {
        let mut spec = spec(&[
            ("domainname", "example.org"),
            ("process.user.umask", "18"),
            (
                "process.scheduler",
                "policy=SCHED_RR,priority=9,flags=SCHED_FLAG_RESET_ON_FORK+SCHED_FLAG_KEEP_PARAMS",
            ),
            ("process.ioPriority", "class=IOPRIO_CLASS_BE,priority=5"),
            ("linux.personality", "LINUX32"),
            ("linux.timeOffsets.monotonic", "secs=-3,nanosecs=7"),
            ("linux.timeOffsets.boottime", "secs=86400"),
            ("linux.resources.rdma.mlx5_0", "hcaHandles=3,hcaObjects=4"),
            ("linux.resources.unified.memory.high", "1048576"),
        ]);
        spec.annotations.insert("org.example".into(), "not ours".into());
        let further = Further::parse(&spec).unwrap();
        assert_eq!((further.domainname, further.umask), (Some("example.org"), Some(0o22)));
        let Scheduler { size, policy, flags, priority, .. } = further.scheduler.unwrap();
        assert_eq!((size, policy, flags, priority), (48, 2, 0x11, 9));
        assert_eq!((further.io_priority, further.personality), (Some(2 << 13 | 5), Some(8)));
        assert_eq!(further.time_offsets, "boottime 86400 0\nmonotonic -3 7\n");
        let files: Vec<_> = further.cgroup.iter().map(|(file, text)| (*file, text.as_str())).collect();
        assert_eq!(files, [("rdma.max", "mlx5_0 hca_handle=3 hca_object=4"), ("memory.high", "1048576")]);
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        for (key, value) in [
            ("process.soul", "1"),
            ("process.user.umask", "512"),
            ("process.user.umask", "rwx"),
            ("process.scheduler", "policy=SCHED_"),
            ("process.scheduler", "policy=SCHED_FAIR"),
            ("process.scheduler", "priority=-1"),
            ("process.scheduler", ""),
            ("process.ioPriority", "class=IOPRIO_CLASS_RT,priority=8"),
            ("linux.personality", "SOLARIS"),
            ("linux.timeOffsets.realtime", "secs=1"),
            ("linux.timeOffsets.monotonic", "minutes=1"),
            ("linux.resources.rdma.x", "hcaHandles=-1"),
        ] {
            let spec = spec(&[(key, value)]);
            let fault = Further::parse(&spec).unwrap_err();
            assert!(fault.message.contains(key), "{fault:?}");
        }
    }
}
