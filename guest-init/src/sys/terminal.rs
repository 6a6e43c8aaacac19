//! Pseudo-terminals.

use linux_raw_sys::ioctl::{TIOCGPTPEER, TIOCSCTTY, TIOCSPTLCK, TIOCSWINSZ};
use syscalls::{Sysno, syscall};

use super::file::{O_NOCTTY, O_RDWR};
use super::{Fd, Result};

/// Allows the slave of a master to be opened.
pub fn unlock(master: &Fd) -> Result<()> {
    let unlocked: i32 = 0;
    // SAFETY: the kernel reads one integer.
    unsafe { syscall!(Sysno::ioctl, master.raw(), TIOCSPTLCK, &raw const unlocked) }.map(|_| ())
}

/// Opens the slave of a master, wherever its devpts is mounted.
pub fn open_slave(master: &Fd) -> Result<Fd> {
    let flags = O_RDWR | O_NOCTTY | linux_raw_sys::general::O_CLOEXEC;
    // SAFETY: no memory is involved.
    unsafe { syscall!(Sysno::ioctl, master.raw(), TIOCGPTPEER, flags) }.map(Fd::new)
}

/// Sets a terminal's size, in characters.
pub fn resize(terminal: i32, rows: u16, columns: u16) -> Result<()> {
    let size = [rows, columns, 0, 0];
    // SAFETY: struct winsize is these four; it outlives the call.
    unsafe { syscall!(Sysno::ioctl, terminal, TIOCSWINSZ, size.as_ptr()) }.map(|_| ())
}

/// Makes a terminal the controlling one of this process's session.
pub fn make_controlling(terminal: &Fd) -> Result<()> {
    // SAFETY: no memory is involved.
    unsafe { syscall!(Sysno::ioctl, terminal.raw(), TIOCSCTTY, 0) }.map(|_| ())
}
