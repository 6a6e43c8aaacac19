//! Whole images in virtual machines on QEMU without KVM: what a user types, and what must come of it.

mod road;

use road::{on_qemu, size};

#[test]
fn hello_says_hi_and_nothing_else() {
    on_qemu(&["hello", "--", "echo", "hi"]).run().exits(0).prints("hi\n");
}

#[test]
fn the_exit_status_is_the_commands_own() {
    on_qemu(&["hello", "--", "sh", "-c", "exit 7"]).run().exits(7).prints("");
}

#[test]
fn death_by_signal_is_128_and_its_number() {
    on_qemu(&["hello", "--", "sh", "-c", "kill -9 $$"]).run().exits(137);
}

#[test]
fn stdin_reaches_the_command_and_ends() {
    on_qemu(&["hello", "-i", "--", "cat"]).input("abc").run().exits(0).prints("abc");
}

#[test]
fn without_dash_i_stdin_is_empty() {
    on_qemu(&["hello", "--", "cat"]).input("abc").run().exits(0).prints("");
}

#[test]
fn stdout_and_stderr_stay_apart() {
    let outcome = on_qemu(&["hello", "--", "sh", "-c", "echo out; echo err >&2"]).run();
    outcome.exits(0).prints("out\n");
    assert!(outcome.stderr.lines().any(|line| line == "err"), "{}", outcome.stderr);
}

#[test]
fn a_stream_through_the_guest_arrives_bit_for_bit() {
    let bytes = noise(size(4 << 20, 100 << 20));
    let outcome = on_qemu(&["hello", "-i", "--", "cat"]).input(bytes.clone()).run();
    outcome.exits(0);
    assert_eq!(outcome.stdout.len(), bytes.len());
    assert!(outcome.stdout == bytes, "the bytes differ");
}

/// Bytes without a pattern (xorshift64*), the same every time.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend(state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
