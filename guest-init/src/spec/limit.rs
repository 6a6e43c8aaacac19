//! Resource limit names (getrlimit(2)).

use super::words::{place, words};
use crate::api::oci::PosixRlimit;
use crate::prelude::*;

/// Names without their `RLIMIT_`, limit N at place N.
const NAMES: &[u8] = words!(
    "CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE RTPRIO RTTIME"
);

/// The number of a limit.
pub fn resource(limit: &PosixRlimit) -> Result<u32> {
    let bare = limit.r#type.strip_prefix("RLIMIT_").unwrap_or(&limit.r#type);
    match place(NAMES, bare) {
        Some(_) if limit.soft > limit.hard => {
            Err(fault!(InvalidArgument, "rlimit {bare}: soft limit {} over hard {}", limit.soft, limit.hard))
        }
        Some(number) => Ok(number),
        None => Err(fault!(InvalidArgument, "unknown rlimit {}", limit.r#type)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_at_their_numbers() {
        use linux_raw_sys::general as c;
        for (name, number) in [
            ("RLIMIT_NOFILE", c::RLIMIT_NOFILE),
            ("RLIMIT_AS", c::RLIMIT_AS),
            ("RLIMIT_RTTIME", c::RLIMIT_RTTIME),
        ] {
            let limit = PosixRlimit { r#type: name.into(), soft: 1, hard: 2 };
            assert_eq!(resource(&limit), Ok(number));
        }
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(resource(&PosixRlimit { r#type: "RLIMIT_LUCK".into(), soft: 1, hard: 1 }).is_err());
        assert!(resource(&PosixRlimit { r#type: "RLIMIT_CPU".into(), soft: 2, hard: 1 }).is_err());
    }
}
