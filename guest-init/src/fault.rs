//! The one error of PID 1: what went wrong with a call, for the caller of the agent API.

use alloc::boxed::Box;
use alloc::fmt::format;
use core::fmt::{Arguments, Display};
use core::ops::Deref;

use crate::api::ttrpc::Code;
use crate::prelude::{Errno, String, Vec};

/// Longest report of a child, in bytes.
pub const REPORT_LIMIT: usize = 4096;

/// Why a call fails. One word wide, since nearly every function may return one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault(Box<Words>);

/// What a call comes to.
pub type Result<T = (), E = Fault> = core::result::Result<T, E>;

/// A status code and a sentence that names the thing and the cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    /// The status code of the answer.
    pub code: Code,
    /// The sentence.
    pub message: String,
}

/// A [`Fault`]: `fault!(InvalidArgument, "no interface {name}")`, with the name of a [`Code`] and a sentence.
macro_rules! fault {
    ($code:ident, $($sentence:tt)*) => {
        $crate::fault::Fault::new($crate::api::ttrpc::Code::$code, format_args!($($sentence)*))
    };
}
pub(crate) use fault;

/// Fails a call with a [`Fault`] if something is so: `refuse_if!(size == 0, InvalidArgument, "a read of no bytes")`.
macro_rules! refuse_if {
    ($so:expr, $code:ident, $($sentence:tt)*) => {
        if $so {
            return Err($crate::fault::fault!($code, $($sentence)*));
        }
    };
}
pub(crate) use refuse_if;

impl Fault {
    /// A fault with a code and a sentence.
    #[cold]
    pub fn new(code: Code, sentence: Arguments<'_>) -> Fault {
        Fault(Box::new(Words { code, message: format(sentence) }))
    }

    /// `doing` (such as `mount /proc`) failed in the kernel.
    #[cold]
    #[inline(never)]
    pub fn system(doing: &dyn Display, errno: Errno) -> Fault {
        fault!(Internal, "{doing}: {}", reason(errno))
    }

    /// The same code, and a sentence that says first what was being done.
    #[cold]
    pub fn while_doing(self, doing: Arguments<'_>) -> Fault {
        Fault::new(self.code, format_args!("{doing}: {}", self.message))
    }

    /// The code and the sentence.
    pub fn into_words(self) -> Words {
        *self.0
    }

    /// As a child reports it through a pipe: the status code, then the sentence, [`REPORT_LIMIT`] bytes at most.
    pub fn encode(&self) -> Vec<u8> {
        let message = self.message.as_bytes();
        let mut bytes = Vec::from([self.code as u8]);
        bytes.extend_from_slice(&message[..message.len().min(REPORT_LIMIT - 1)]);
        bytes
    }

    /// From a report that failed.
    pub fn decode(report: &[u8]) -> Fault {
        let [code, message @ ..] = report else { return fault!(Internal, "no reason given") };
        let code = Code::try_from(i32::from(*code)).ok().filter(|code| *code != Code::Ok);
        Fault::new(code.unwrap_or(Code::Internal), format_args!("{}", String::from_utf8_lossy(message)))
    }
}

impl Deref for Fault {
    type Target = Words;

    fn deref(&self) -> &Words {
        &self.0
    }
}

/// What an error number says, in words.
pub fn reason(errno: Errno) -> &'static str {
    errno.description().unwrap_or("unknown error")
}

/// Turns a kernel error into a [`Fault`] that says what was being done.
pub trait Context<T> {
    /// Adds what was being done.
    fn context(self, doing: impl Display) -> Result<T>;
}

impl<T> Context<T> for Result<T, Errno> {
    fn context(self, doing: impl Display) -> Result<T> {
        self.map_err(|errno| Fault::system(&doing, errno))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_brings_the_fault_over() {
        let fault = fault!(NotFound, "exec \u{201c}x\u{201d}: not found");
        assert_eq!(Fault::decode(&fault.encode()), fault);
        let long = fault!(Internal, "{}", "x".repeat(10_000));
        assert_eq!(long.encode().len(), REPORT_LIMIT);
        assert_eq!(Fault::decode(&[0, b'x']).code, Code::Internal);
        assert_eq!(Fault::decode(&[]).code, Code::Internal);
    }
}
