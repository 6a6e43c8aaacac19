//! PID 1 of a Ferry guest, as a library that the host can test.
#![cfg_attr(not(test), no_std)]
