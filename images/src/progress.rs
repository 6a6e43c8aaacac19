//! How long work tells whoever waits for it where it stands. The caller draws; this crate only reports.

/// Something that shows how far a step has come. Steps do not nest: each [`Progress::begin`] ends the one before.
///
/// `()` shows nothing.
pub trait Progress: Sync {
    /// A step begins: `what` is a noun phrase for people, `total` its bytes where they are known.
    fn begin(&self, what: &str, total: Option<u64>);
    /// `bytes` more are done.
    fn advance(&self, bytes: u64);
    /// The step is over, well or not.
    fn end(&self);
    /// Something a person must see although the work goes on: one full sentence.
    fn warn(&self, _message: &str) {}
}

impl Progress for () {
    fn begin(&self, _what: &str, _total: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
    fn end(&self) {}
}
