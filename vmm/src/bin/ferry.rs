//! The `ferry` command.

#![cfg_attr(not(test), no_main)]

/// Where the C library begins.
#[cfg(not(test))]
#[unsafe(no_mangle)]
extern "C" fn main(_: i32, _: *const *const std::ffi::c_char) -> i32 {
    ferry_vmm::program::begin(ferry_vmm::cli::main)
}
