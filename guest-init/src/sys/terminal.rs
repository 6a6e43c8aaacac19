//! Pseudo-terminals.

use linux_raw_sys::general::O_CLOEXEC;
use linux_raw_sys::ioctl::{TIOCGPTPEER, TIOCSCTTY, TIOCSPTLCK, TIOCSWINSZ};

use super::file::{O_NOCTTY, O_RDWR};
use super::{Fd, Result};

calls! { Result<()>;
    /// Allows the slave of a master to be opened.
    pub unlock(master: &Fd) = ioctl(master.raw(), TIOCSPTLCK, &raw const UNLOCKED);

    /// Sets a terminal's size, in characters (struct winsize).
    pub resize(terminal: i32, rows: u16, columns: u16) = ioctl(terminal, TIOCSWINSZ, [rows, columns, 0, 0].as_ptr());

    /// Makes a terminal the controlling one of this process's session.
    pub make_controlling(terminal: &Fd) = ioctl(terminal.raw(), TIOCSCTTY, 0);
}

static UNLOCKED: i32 = 0;

calls! { Result<Fd>;
    /// Opens the slave of a master, wherever its devpts is mounted.
    pub open_slave(master: &Fd) = ioctl(master.raw(), TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
}
