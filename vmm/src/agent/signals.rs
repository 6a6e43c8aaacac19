//! Signals by name and number, and which of the host's are passed on to a container's process.

use thiserror::Error;

/// A signal's number on x86-64 Linux, 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signal(u8);

/// Text that names no signal.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("'{0}' is not a signal: write a name (TERM, SIGTERM, RTMIN+3) or a number from 1 to 64")]
pub struct UnknownSignal(String);

/// The names in numeric order from 1 on (signal(7), x86-64).
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
/// Other names of the same numbers.
const ALIASES: [(&str, u8); 4] = [("IOT", 6), ("CLD", 17), ("POLL", 29), ("RTMIN", 34)];
/// glibc's SIGRTMIN: 32 and 33 are its own.
const RTMIN: u8 = 34;
/// The last real-time signal.
const RTMAX: u8 = 64;

impl Signal {
    /// The terminal is gone.
    pub const HUP: Self = Self(1);
    /// Interrupt, as Ctrl-C sends it.
    pub const INT: Self = Self(2);
    /// Quit, as Ctrl-\ sends it.
    pub const QUIT: Self = Self(3);
    /// Kill, which no process can refuse.
    pub const KILL: Self = Self(9);
    /// A write to a pipe that nobody reads.
    pub const PIPE: Self = Self(13);
    /// The polite end.
    pub const TERM: Self = Self(15);
    /// The terminal's size has changed.
    pub const WINCH: Self = Self(28);

    /// What the host's user may send to the container's process through ferry. Left out are the job-control signals
    /// (a stopped ferry is a stopped VM, which is what Ctrl-Z should do), the faults, and what concerns ferry alone
    /// (CHLD, PIPE, URG, WINCH).
    pub const FORWARDED: [Self; 9] =
        [Self(1), Self::INT, Self::QUIT, Self(10), Self(12), Self(14), Self::TERM, Self(29), Self(30)];

    /// The signal of a number, if there is one.
    pub fn from_number(number: i32) -> Option<Self> {
        u8::try_from(number).ok().filter(|n| (1..=RTMAX).contains(n)).map(Self)
    }

    /// Reads a name with or without `SIG`, in either case, or a number.
    pub fn parse(text: &str) -> Result<Self, UnknownSignal> {
        let fault = || UnknownSignal(text.chars().take(40).collect());
        if let Ok(number) = text.parse::<i32>() {
            return Self::from_number(number).ok_or_else(fault);
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some(at) = NAMES.iter().position(|known| *known == name) {
            return Ok(Self(at as u8 + 1));
        }
        if let Some((_, number)) = ALIASES.iter().find(|(known, _)| *known == name) {
            return Ok(Self(*number));
        }
        if name == "RTMAX" {
            return Ok(Self(RTMAX));
        }
        let offset = |rest: &str| rest.parse::<u8>().ok().filter(|o| *o <= RTMAX - RTMIN);
        let real_time = match (name.strip_prefix("RTMIN+"), name.strip_prefix("RTMAX-")) {
            (Some(rest), _) => offset(rest).map(|o| RTMIN + o),
            (_, Some(rest)) => offset(rest).map(|o| RTMAX - o),
            _ => None,
        };
        real_time.map(Self).ok_or_else(fault)
    }

    /// The number.
    pub fn number(self) -> u8 {
        self.0
    }

    /// The exit status a shell gives to a process that the signal has ended.
    pub fn exit_status(self) -> u8 {
        128 + self.0
    }
}

impl std::fmt::Display for Signal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match NAMES.get(usize::from(self.0) - 1) {
            Some(name) => write!(f, "SIG{name}"),
            None if self.0 >= RTMIN => write!(f, "SIGRTMIN+{}", self.0 - RTMIN),
            None => write!(f, "signal {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_and_numbers() {
        for (text, number) in [
            ("TERM", 15),
            ("SIGTERM", 15),
            ("sigterm", 15),
            ("15", 15),
            ("HUP", 1),
            ("KILL", 9),
            ("SYS", 31),
            ("IOT", 6),
            ("SIGPOLL", 29),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX", 64),
            ("RTMAX-14", 50),
            ("64", 64),
        ] {
            assert_eq!(Signal::parse(text).map(Signal::number), Ok(number), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_signal() {
        for text in
            ["", "SIG", "0", "65", "-9", "NOPE", "RTMIN+31", "RTMAX-31", "RTMIN+-1", "RTMIN-1", "TERM "]
        {
            assert!(Signal::parse(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn names_agree_with_the_c_librarys_numbers() {
        for (name, number) in [
            ("HUP", libc::SIGHUP),
            ("KILL", libc::SIGKILL),
            ("USR1", libc::SIGUSR1),
            ("USR2", libc::SIGUSR2),
            ("PIPE", libc::SIGPIPE),
            ("STKFLT", libc::SIGSTKFLT),
            ("TSTP", libc::SIGTSTP),
            ("WINCH", libc::SIGWINCH),
            ("SYS", libc::SIGSYS),
        ] {
            assert_eq!(i32::from(Signal::parse(name).unwrap().number()), number, "{name}");
        }
    }

    #[test]
    fn shows_names_that_it_reads() {
        for number in 1..=64 {
            let signal = Signal::from_number(number).unwrap();
            if !(32..34).contains(&number) {
                assert_eq!(Signal::parse(&signal.to_string()), Ok(signal));
            }
        }
    }
}
