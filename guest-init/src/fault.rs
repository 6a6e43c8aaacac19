//! The one error of PID 1: what went wrong with a call, for the caller of the agent API.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Display;

use crate::api::ttrpc::Code;
use crate::sys::Errno;

/// Longest report of a child, in bytes.
pub const REPORT_LIMIT: usize = 4096;

/// Why a call fails: a status code and a sentence that names the thing and the cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The status code of the answer.
    pub code: Code,
    /// The sentence.
    pub message: String,
}

impl Fault {
    /// A fault with a code of its own.
    pub fn new(code: Code, message: impl Into<String>) -> Fault {
        Fault { code, message: message.into() }
    }

    /// The caller asked for something that makes no sense.
    pub fn invalid(message: impl Into<String>) -> Fault {
        Fault::new(Code::InvalidArgument, message)
    }

    /// The thing is not in the state that the call needs.
    pub fn state(message: impl Into<String>) -> Fault {
        Fault::new(Code::FailedPrecondition, message)
    }

    /// Something that this agent does not do.
    pub fn unimplemented(message: impl Into<String>) -> Fault {
        Fault::new(Code::Unimplemented, message)
    }

    /// Something else went wrong.
    pub fn internal(message: impl Into<String>) -> Fault {
        Fault::new(Code::Internal, message)
    }

    /// `doing` (such as `mount /proc`) failed in the kernel.
    pub fn system(doing: impl Display, errno: Errno) -> Fault {
        Fault::internal(format!("{doing}: {}", reason(errno)))
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
        let [code, message @ ..] = report else { return Fault::internal("no reason given") };
        let code = Code::try_from(i32::from(*code)).ok().filter(|code| *code != Code::Ok);
        Fault::new(code.unwrap_or(Code::Internal), String::from_utf8_lossy(message).into_owned())
    }
}

/// What an error number says, in words.
pub fn reason(errno: Errno) -> &'static str {
    errno.description().unwrap_or("unknown error")
}

/// Turns a kernel error into a [`Fault`] that says what was being done.
pub trait Context<T> {
    /// Adds what was being done.
    fn context(self, doing: impl Display) -> Result<T, Fault>;
}

impl<T> Context<T> for Result<T, Errno> {
    fn context(self, doing: impl Display) -> Result<T, Fault> {
        self.map_err(|errno| Fault::system(doing, errno))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_brings_the_fault_over() {
        let fault = Fault::new(Code::NotFound, "exec \u{201c}x\u{201d}: not found");
        assert_eq!(Fault::decode(&fault.encode()), fault);
        let long = Fault::internal("x".repeat(10_000));
        assert_eq!(long.encode().len(), REPORT_LIMIT);
        assert_eq!(Fault::decode(&[0, b'x']).code, Code::Internal);
        assert_eq!(Fault::decode(&[]).code, Code::Internal);
    }
}
